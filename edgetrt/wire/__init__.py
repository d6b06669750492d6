"""The public contract over MQTT, and the datagrams between runtime and agent.

- One JSON object per message, UTF-8, `"v": 1`; unknown fields are ignored, an unknown version is
  refused.
- QoS 1 for everything; a receiver de-duplicates by (device, epoch, seq).
- Topics are split by direction, so that one access rule per direction suffices.
- `TOPICS` is the table that the code, the tests and the documentation read.
"""

from __future__ import annotations

from edgetrt.wire.codec import decode, decode_link, encode, schema
from edgetrt.wire.messages import (
    VERSION,
    ActivatedMessage,
    ActivateMessage,
    AgentReport,
    Box,
    FrameResult,
    GrantMessage,
    HealthMessage,
    LinkMessage,
    PipelineReport,
    ResultMessage,
    StatusMessage,
    Struct,
    Tensor,
)
from edgetrt.wire.topics import (
    QOS,
    TOPICS,
    Address,
    Topic,
    everything_from,
    health,
    parse,
    result,
    status,
)
from edgetrt.wire.values import (
    MAX_RAW_VALUES,
    grant_message,
    pipeline_report,
    result_message,
    stamp,
)

__all__ = [
    "MAX_RAW_VALUES",
    "QOS",
    "TOPICS",
    "VERSION",
    "ActivateMessage",
    "ActivatedMessage",
    "Address",
    "AgentReport",
    "Box",
    "FrameResult",
    "GrantMessage",
    "HealthMessage",
    "LinkMessage",
    "PipelineReport",
    "ResultMessage",
    "StatusMessage",
    "Struct",
    "Tensor",
    "Topic",
    "decode",
    "decode_link",
    "encode",
    "everything_from",
    "grant_message",
    "health",
    "parse",
    "pipeline_report",
    "result",
    "result_message",
    "schema",
    "stamp",
    "status",
]
