"""JRT-Prompt: read the context twice, so that the second reading knows what matters (arXiv 2407.05483, section 3.2).

The paper defines the prompt as `context question context question`; the code its authors released sends
`question context context question`. Both are here, with `context context question`, whose state can be kept for many
questions. What is never the default is the literal repetition of a prompt that ends in an answer cue ("key:"): a model
that has read the cue followed by the document's first line copies that line. So the first question is a sentence and
the cue stands at the very end only.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from jrt.errors import EmptyInputError
from jrt.methods import Method
from jrt.prompts.plan import Part, Plan, Query

Order = Literal["question_first", "context_first", "repeat"]


def _default_order(fields: dict[str, Any]) -> Order:
    return "question_first" if fields.get("passes", 2) > 1 else "context_first"


class JRTPrompt(Method):
    """How often and in which order the context and the question are read.

    | order | two passes | one pass |
    |---|---|---|
    | `question_first` (the default for two and more) | question context context cue | question context cue |
    | `context_first` (the default for one) | context context cue | context cue |
    | `repeat` (the paper's definition, literally) | context cue context cue | context cue |

    Attributes:
        passes: how often the context is read; 1 is the plain prompt.
        order: see the table.
        lead: the question as it is said before the first reading; `{question}` stands for it.
        cue: what stands after the last reading, and in `repeat` after every one; `{question}` stands for the question.
        separator: what stands between two readings.
        joint: what stands between a question or cue and the context beside it.

    Example:
        >>> JRTPrompt(passes=2).plan("The sky is blue.", "What colour is the sky?").text
        'What colour is the sky?\\nThe sky is blue.\\nThe sky is blue.\\nQuestion: What colour is the sky?\\nAnswer:'
    """

    kind = "jrt_prompt"

    passes: int = Field(default=2, ge=1, strict=True)
    order: Order = Field(default_factory=_default_order)
    lead: str = "{question}"
    cue: str = "Question: {question}\nAnswer:"
    separator: str = "\n"
    joint: str = "\n"

    def __init__(self, passes: int = 2, **options: Any) -> None:
        super().__init__(passes=passes, **options)

    @field_validator("cue")
    @classmethod
    def _cue_names_the_question(cls, cue: str) -> str:
        if "{question}" not in cue:
            raise ValueError("the cue must hold {question}, else the model never reads the question")
        return cue

    def _derived(self) -> set[str]:
        return {"order"} if self.order == _default_order({"passes": self.passes}) else set()

    def query(self, question: str) -> Query:
        """The pieces of one question.

        Raises:
            EmptyInputError: the question is empty.
        """
        if not question.strip():
            raise EmptyInputError("The question is empty.", "Ask something, or use `generate` for plain continuation.")
        asked = question.strip()
        return Query(
            sentence=self.lead.replace("{question}", asked), cue=self.cue.replace("{question}", asked), joint=self.joint
        )

    def plan(self, context: str, query: str | Query) -> Plan:
        """The prompt for one context and one question, in reading order.

        Args:
            context: the document; surrounding white space is dropped, because it would change with every repetition.
            query: the question, or a `Query` whose pieces are used as they are.

        Raises:
            EmptyInputError: the context or the question is empty.
        """
        if not context.strip():
            raise EmptyInputError("The context is empty.", "Pass the document that holds the answer.")
        document = context.strip()
        return self.arrange([document] * self.passes, self.query(query) if isinstance(query, str) else query)

    def arrange(self, copies: list[str], query: Query) -> Plan:
        """Puts copies of the context, which may differ, and one question into the order of this method.

        Empty pieces and the joints that would stand beside them are left out.
        """
        cue_joint = query.joint if query.cue_joint is None else query.cue_joint
        parts: list[Part] = []
        if self.order == "question_first" and query.sentence:
            parts += [Part("question", query.sentence), Part("separator", query.joint)]
        for index, copy in enumerate(copies):
            if index:
                parts.append(Part("separator", self.separator))
            parts.append(Part("context", copy))
            if query.cue and (self.order == "repeat" or index == len(copies) - 1):
                parts += [Part("separator", cue_joint), Part("cue", query.cue)]
        return Plan(tuple(part for part in parts if part.text or part.role == "context"))

    def reading_plan(self, context: str) -> Plan:
        """What is read when no question is known yet: the context, `passes` times."""
        if not context.strip():
            raise EmptyInputError("The document is empty.", "Pass the text that the reading is to keep.")
        document = context.strip()
        parts = [Part("context", document)]
        for _ in range(self.passes - 1):
            parts += [Part("separator", self.separator), Part("context", document)]
        return Plan(tuple(parts))
