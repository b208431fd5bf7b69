"""Prompts as text and token ids. Nothing here imports torch or transformers, so it works in front of any server."""

from jrt.prompts.budget import PartCount, check, count_parts, describe
from jrt.prompts.chat import chat_plan, chat_query, chat_reading_plan, messages_plan, wrap_plan
from jrt.prompts.ids import repeat_ids
from jrt.prompts.jrt_prompt import JRTPrompt
from jrt.prompts.plan import Part, Plan, Query
from jrt.prompts.recall_rows import cut_row, document_column, labels, window_answers
from jrt.prompts.recall_tasks import render
from jrt.prompts.window import Window, compat_window, strict_window

__all__ = [
    "JRTPrompt",
    "Part",
    "PartCount",
    "Plan",
    "Query",
    "Window",
    "chat_plan",
    "chat_query",
    "chat_reading_plan",
    "check",
    "compat_window",
    "count_parts",
    "cut_row",
    "describe",
    "document_column",
    "labels",
    "messages_plan",
    "render",
    "repeat_ids",
    "strict_window",
    "window_answers",
    "wrap_plan",
]
