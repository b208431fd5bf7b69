"""The state core: what a model remembers, captured, continued, forked and saved, exactly, for every family."""

from jrt.state.capabilities import Capabilities
from jrt.state.generation import generate
from jrt.state.probe import max_length, probe
from jrt.state.state import State, advance

__all__ = ["Capabilities", "State", "advance", "generate", "max_length", "probe"]
