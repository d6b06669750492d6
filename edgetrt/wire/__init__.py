"""The public contract over MQTT, and the datagrams between runtime and agent.

- One JSON object per message, UTF-8, `"v": 1`; unknown fields are ignored, an unknown version is
  refused.
- QoS 1 for everything; a receiver de-duplicates by (device, epoch, seq).
- Topics are split by direction, so that one access rule per direction suffices.
- `TOPICS` is the table that the code, the tests and the documentation read.
"""

from __future__ import annotations

from edgetrt.wire.codec import as_historical, decode, decode_link, encode, schema
from edgetrt.wire.messages import (
    VERSION,
    ActivatedMessage,
    ActivateMessage,
    AgentReport,
    Box,
    ClockReport,
    EventMessage,
    FrameResult,
    GrantMessage,
    HealthMessage,
    LinkMessage,
    MachineReport,
    OutboxReport,
    PipelineReport,
    Reason,
    ReportedMessage,
    ReportedPipeline,
    ResultMessage,
    StatusMessage,
    Struct,
    Taken,
    Tensor,
)
from edgetrt.wire.topics import (
    EXPIRY_S,
    QOS,
    TOPICS,
    Address,
    Topic,
    event,
    everything_from,
    health,
    parse,
    reported,
    result,
    status,
)
from edgetrt.wire.values import (
    MAX_RAW_VALUES,
    grant_message,
    mended_time_s,
    pipeline_report,
    result_message,
    stamp,
)

__all__ = [
    "EXPIRY_S",
    "MAX_RAW_VALUES",
    "QOS",
    "TOPICS",
    "VERSION",
    "ActivateMessage",
    "ActivatedMessage",
    "Address",
    "AgentReport",
    "Box",
    "ClockReport",
    "EventMessage",
    "FrameResult",
    "GrantMessage",
    "HealthMessage",
    "LinkMessage",
    "MachineReport",
    "OutboxReport",
    "PipelineReport",
    "Reason",
    "ReportedMessage",
    "ReportedPipeline",
    "ResultMessage",
    "StatusMessage",
    "Struct",
    "Taken",
    "Tensor",
    "Topic",
    "as_historical",
    "decode",
    "decode_link",
    "encode",
    "event",
    "everything_from",
    "grant_message",
    "health",
    "mended_time_s",
    "parse",
    "pipeline_report",
    "reported",
    "result",
    "result_message",
    "schema",
    "stamp",
    "status",
]
