"""Whom to connect to, from the config's broker section and the files that it names."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

from edgetrt.config import BrokerConfig, address
from edgetrt.errors import ConfigError
from edgetrt.mqtt import tls
from edgetrt.mqtt.settings import Endpoint

_log = logging.getLogger(__name__)


def endpoints(config: BrokerConfig, client_id: str) -> tuple[Endpoint, ...]:
    """The broker, then the others, all with the same login.

    Raises:
        ConfigError: a file cannot be read or used, or an address cannot be understood.
    """
    password = _password(config)
    places = [(config.host, config.port)]
    places += [address(text, "broker.others") for text in config.others]
    context = tls.context(config)
    return tuple(
        Endpoint(host, port, client_id, config.keepalive_s, config.username, password, context)
        for host, port in places
    )


def open_to_all(config: BrokerConfig) -> tuple[str, ...]:
    """Secrets that every user of this machine can read, each in words; what is not there is not told."""
    found = []
    for key in ("password_file", "key_file"):
        written = getattr(config, key)
        try:
            mode = stat.S_IMODE(Path(tls.path_of(written)).stat().st_mode) if written else 0
        except (OSError, ConfigError):
            continue
        if mode & stat.S_IROTH:
            found.append(f"broker.{key} {written}: mode {mode:04o}: every user here can read it")
    return tuple(found)


class Places:
    """The brokers in turn, with the files as they are now.

    A certificate is renewed without a restart: its files are looked at before every attempt. While they
    do not fit each other, because one of two was replaced so far, those from before go on being used.

    Args:
        config: which brokers, and who we are to them.
        client_id: the device's name.

    Raises:
        ConfigError: as `endpoints`.
    """

    def __init__(self, config: BrokerConfig, client_id: str) -> None:
        self._config = config
        self._client_id = client_id
        self._stamps = tls.stamps(config)
        self._found = endpoints(config, client_id)
        for secret in open_to_all(config):
            _log.warning("%s; chmod 600, and another secret if somebody could have", secret)
        self._at = 0
        self._told: tls.Stamps | None = None

    @property
    def current(self) -> Endpoint:
        """Whom to try next."""
        return self._found[self._at]

    def turn(self) -> None:
        """Go on to the next one."""
        self._at = (self._at + 1) % len(self._found)

    def refresh(self) -> bool:
        """Take files that changed; True when there were some."""
        stamps = tls.stamps(self._config)
        if stamps == self._stamps:
            return False
        try:
            self._found = endpoints(self._config, self._client_id)
        except ConfigError as error:
            if stamps != self._told:
                self._told = stamps
                _log.warning("%s; going on with those from before", error.message)
            return False
        self._stamps = stamps
        _log.info("broker: took the renewed TLS files")
        return True


def _password(config: BrokerConfig) -> str | None:
    if config.password_file is None:
        return None
    try:
        return Path(tls.path_of(config.password_file)).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"broker.password_file {config.password_file}: cannot be read: {error}"
        ) from error
