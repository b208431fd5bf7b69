"""Prompts as text and token ids. Nothing here imports torch or transformers, so it works in front of any server."""

from jrt.prompts.chat import chat_plan, chat_query, chat_reading_plan, messages_plan, wrap_plan
from jrt.prompts.jrt_prompt import JRTPrompt
from jrt.prompts.plan import Part, Plan, Query
from jrt.prompts.recall_tasks import render

__all__ = [
    "JRTPrompt",
    "Part",
    "Plan",
    "Query",
    "chat_plan",
    "chat_query",
    "chat_reading_plan",
    "messages_plan",
    "render",
    "wrap_plan",
]
