"""Giving a device its identity: a key made here, a certificate of the site, a broker that knows it.

Everything is checked before anything is written, and what is written replaces one thing at the end:
the `broker` section of agent.yaml.
"""

from __future__ import annotations

from edgetrt.provision.placing import Provisioned, Requested, provision, request, token

__all__ = ["Provisioned", "Requested", "provision", "request", "token"]
