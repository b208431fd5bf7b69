"""Prompts as text and token ids; nothing in this package imports torch or transformers, so it works in front of any server."""

from jrt.prompts.jrt_prompt import JRTPrompt
from jrt.prompts.plan import Part, Plan, Query

__all__ = ["JRTPrompt", "Part", "Plan", "Query"]
