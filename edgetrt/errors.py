"""Every error that edgetrt raises on purpose.

    EdgetrtError(message, hint)
      ConfigError                    a file or a value that a person wrote; systemd does not restart
      ModelError                     the network itself
        UnsupportedOperatorError       an operator that the backend or the DLA cannot run
        PlacementError                 not enough of the network fits the DLA
        AccuracyError                  the engine is further from its reference than the limit
      BackendError                   what runs the network
        EngineBuildError               the optimiser failed
        EngineMismatchError            the engine belongs to another device, version or file
        InferenceError                 a frame was refused
        CudaError                      a CUDA status other than success
      SourceError                    a camera, stream, file or sensor
        SourceLostError                it was there and went away
      SinkError                      where results go
        ResultsLostError               it took results and could not keep them
      BoardError                     the board's own files and tools
        PowerModeError                 a power mode that cannot be set
      TransportError                 the MQTT broker
        NotConnectedError              there is no connection now
        TakenOverError                 somebody else connected under this device's name
        UnheardError                   the broker took a message, and nobody subscribes to it
        MessageError                   a message that does not follow the contract
        CommandError                   a command that is refused, or was not done
      StoreError                     what waits for the broker cannot be kept on the disk
      UpdateError                    a release or its installation
        TrustError                     a signature, version or expiry that does not hold
        DigestError                    bytes that are not the promised ones
        IncompatibleError              meant for another board or version
        ProveError                     it ran, and worse than promised
        UnreachableError               the repository is away, or too slow, for now
      FleetError                     the controller

Message: what, on which object, expected and got. Hint: what to do. Exit codes are those of
sysexits.h.
"""

from __future__ import annotations


class EdgetrtError(Exception):
    """Anything that edgetrt refuses or fails at, told so that a person can act on it.

    Args:
        message: what happened, on which object, what was expected and what was there.
        hint: what to do about it; one sentence, or empty when there is nothing to say.
    """

    exit_code = 70  # EX_SOFTWARE

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def in_line(self) -> str:
        """Message and hint as one line, where there is no room for two."""
        return f"{self.message}. {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[type[EdgetrtError], tuple[object, ...]]:
        """Pickle with both parts, so that a build process can hand its error to its parent."""
        return type(self), (self.message, self.hint)


class ConfigError(EdgetrtError):
    """A file or a value that a person wrote is wrong; starting again will not help."""

    exit_code = 78  # EX_CONFIG


class ModelError(EdgetrtError):
    """The network file is missing, damaged, or not what the task expects."""

    exit_code = 65  # EX_DATAERR


class UnsupportedOperatorError(ModelError):
    """An operator that the chosen backend or the DLA cannot run."""


class PlacementError(ModelError):
    """Too little of the network fits the DLA that was asked for."""


class AccuracyError(ModelError):
    """The engine disagrees with its reference by more than the recipe's limit."""


class BackendError(EdgetrtError):
    """What runs the network is missing or failed."""


class EngineBuildError(BackendError):
    """The optimiser failed, ran out of memory, or was stopped."""


class EngineMismatchError(BackendError):
    """An engine made for another device, another version, or another network."""


class InferenceError(BackendError):
    """One frame was refused by the session; the supervisor reloads when it persists."""


class CudaError(BackendError):
    """A CUDA call returned a status other than success.

    Args:
        message: what was asked, of which object, and what CUDA answered.
        hint: what to do.
        status: CUDA's own name of the answer, such as `CUDA_ERROR_OUT_OF_MEMORY`.
        fatal: the process's context is lost: every later call fails as well, and only a new process
            helps. Whoever sees it ends the process, for systemd to start it again.
    """

    def __init__(self, message: str, hint: str = "", status: str = "", fatal: bool = False) -> None:
        super().__init__(message, hint)
        self.status = status
        self.fatal = fatal

    def __reduce__(self) -> tuple[type[EdgetrtError], tuple[object, ...]]:
        """Pickle with all parts."""
        return type(self), (self.message, self.hint, self.status, self.fatal)


class SourceError(EdgetrtError):
    """A camera, stream, file or sensor cannot be opened or read."""

    exit_code = 66  # EX_NOINPUT


class SourceLostError(SourceError):
    """A source that was delivering went away; it may come back."""


class SinkError(EdgetrtError):
    """A place for results cannot be opened."""

    exit_code = 73  # EX_CANTCREAT


class ResultsLostError(SinkError):
    """Results did not get where they should: a full disk, an encoder that failed."""

    exit_code = 74  # EX_IOERR


class BoardError(EdgetrtError):
    """The board's own files and tools cannot be read or used."""

    exit_code = 71  # EX_OSERR


class PowerModeError(BoardError):
    """A power mode that does not exist, or cannot be set without a reboot."""


class TransportError(EdgetrtError):
    """The MQTT broker refuses, or speaks another protocol."""

    exit_code = 69  # EX_UNAVAILABLE


class NotConnectedError(TransportError):
    """There is no connection to the broker now."""


class TakenOverError(TransportError):
    """The broker gave this device's session to another client with its name."""


class UnheardError(TransportError):
    """The broker acknowledged a message that nobody subscribes to: it is gone."""


class MessageError(TransportError):
    """A message, a topic or a datagram that does not follow the contract."""

    exit_code = 76  # EX_PROTOCOL


class CommandError(TransportError):
    """A command that a device refuses, or did not get done.

    Args:
        message: what was refused and why.
        hint: what to do.
        code: one word that a machine can count, such as `rate`; never reworded.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "", code: str = "") -> None:
        super().__init__(message, hint)
        self.code = code

    def __reduce__(self) -> tuple[type[EdgetrtError], tuple[object, ...]]:
        """Pickle with all parts."""
        return type(self), (self.message, self.hint, self.code)


class StoreError(EdgetrtError):
    """The disk cannot keep what waits for the broker: full, read-only, missing or faulty."""

    exit_code = 74  # EX_IOERR


class UpdateError(EdgetrtError):
    """A release, or its installation, failed.

    Args:
        message: what happened, on which object, what was expected and what was there.
        hint: what to do.
        code: one word that a fleet can count, such as `expired` or `slow`; never reworded.
    """

    exit_code = 65

    def __init__(self, message: str, hint: str = "", code: str = "") -> None:
        super().__init__(message, hint)
        self.code = code

    def __reduce__(self) -> tuple[type[UpdateError], tuple[object, ...]]:
        """Pickle with all parts."""
        return type(self), (self.message, self.hint, self.code)


class TrustError(UpdateError):
    """A signature, a version or an expiry date does not hold."""

    exit_code = 77  # EX_NOPERM


class DigestError(UpdateError):
    """The bytes are not the promised ones."""


class IncompatibleError(UpdateError):
    """A release for another board, JetPack or TensorRT."""


class ProveError(UpdateError):
    """The new release ran, and worse than it promised."""


class UnreachableError(UpdateError):
    """The repository does not answer, or too slowly; the same attempt may succeed later."""

    exit_code = 69  # EX_UNAVAILABLE


class FleetError(EdgetrtError):
    """The controller, or what it was asked to do."""
