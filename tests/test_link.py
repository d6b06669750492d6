"""The local link: real sockets, peers that come and go, and no waiting."""

from __future__ import annotations

import socket
import stat
import threading
from pathlib import Path

import pytest

from edgetrt.errors import TransportError
from edgetrt.link import MAX_DATAGRAM, Receiver, Sender


def drain(receiver: Receiver) -> list[bytes]:
    got = []
    while (datagram := receiver.receive()) is not None:
        got.append(datagram)
    return got


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.sock"


def test_boundaries_and_order_are_kept(path: Path) -> None:
    with Receiver(path) as receiver, Sender(path) as sender:
        sent = [b"one", b"", b"three" * 100]
        assert all(sender.send(datagram) for datagram in sent)
        assert [receiver.receive() for _ in sent] == sent
        assert receiver.receive() is None


def test_without_a_peer_it_is_dropped_and_counted(path: Path) -> None:
    with Sender(path) as sender:
        assert not sender.send(b"x")
        assert not sender.send(b"y")
        assert sender.dropped == 2
        assert "No such file" in sender.reason
        with Receiver(path) as receiver:
            assert sender.send(b"z")
            assert sender.reason == ""
            assert drain(receiver) == [b"z"]


def test_a_peer_that_restarts_is_found_again(path: Path) -> None:
    with Sender(path) as sender:
        for round_number in range(3):
            with Receiver(path) as receiver:
                assert sender.send(b"%d" % round_number)
                assert receiver.receive() == b"%d" % round_number
            assert not sender.send(b"nobody there")
        assert sender.dropped == 3


def test_a_socket_left_by_a_crash_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as crashed:
        crashed.bind(str(path))
    assert path.exists()
    with Sender(path) as sender:
        assert not sender.send(b"x")
        with Receiver(path) as receiver:
            assert sender.send(b"y")
            assert receiver.receive() == b"y"


def test_a_living_peer_is_not_pushed_out(path: Path) -> None:
    with Receiver(path) as first, Sender(path) as sender:
        with pytest.raises(TransportError, match="another process serves it"):
            Receiver(path)
        assert sender.send(b"still the first")
        assert first.receive() == b"still the first"


def test_a_file_in_the_way_is_not_removed(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(TransportError, match="no socket"):
        Receiver(path)
    assert path.read_text() == "precious"


def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="cannot be bound"):
        Receiver(tmp_path / "missing" / "agent.sock")


def test_a_path_too_long_for_a_socket_is_told(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    for end in (Receiver, Sender):
        with pytest.raises(TransportError, match="at most 107"):
            end(long)


def test_the_largest_datagram_passes_and_one_more_byte_does_not(path: Path) -> None:
    with Receiver(path) as receiver, Sender(path) as sender:
        assert sender.send(b"x" * MAX_DATAGRAM)
        assert len(receiver.receive() or b"") == MAX_DATAGRAM
        assert not sender.send(b"x" * (MAX_DATAGRAM + 1))
        assert str(MAX_DATAGRAM) in sender.reason
        assert sender.dropped == 1


def test_a_longer_datagram_of_another_program_is_refused_whole(path: Path) -> None:
    with (
        Receiver(path) as receiver,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger,
    ):
        stranger.sendto(b"x" * (MAX_DATAGRAM + 1), str(path))
        assert receiver.receive() is None
        assert receiver.refused == 1
        stranger.sendto(b"next", str(path))
        assert receiver.receive() == b"next"


def test_a_full_queue_fills_the_backlog_and_then_drops_the_newest(path: Path) -> None:
    with Receiver(path) as receiver, Sender(path, backlog=5) as sender:
        taken = 0
        while sender.send(b"%d" % taken):
            taken += 1
        assert sender.dropped == 1
        assert "full" in sender.reason
        got = drain(receiver)
        assert sender.send(b"after")
        got += drain(receiver)
        assert got == [b"%d" % number for number in range(taken)] + [b"after"]


def test_what_waits_is_handed_over_at_the_end(path: Path) -> None:
    with Receiver(path) as receiver:
        sender = Sender(path, backlog=100)
        while sender.send(b"x" * 100):
            pass
        got: list[bytes] = []
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                if (datagram := receiver.receive(0.05)) is not None:
                    got.append(datagram)

        reader = threading.Thread(target=read)
        reader.start()
        sender.close(timeout_s=30)
        stop.set()
        reader.join()
        got += drain(receiver)
        assert sender.dropped == 1
        assert len(got) > 100


def test_closing_without_a_peer_counts_what_waited(path: Path) -> None:
    with Receiver(path):
        sender = Sender(path, backlog=7)
        while sender.send(b"x"):
            pass
    sender.close()
    assert sender.dropped == 1 + 7
    assert not sender.send(b"x")
    sender.close()


def test_threads_share_a_sender(path: Path) -> None:
    each = 200

    with Receiver(path) as receiver, Sender(path, backlog=10_000) as sender:

        def send(name: int) -> None:
            for number in range(each):
                assert sender.send(b"%d %d" % (name, number))

        threads = [threading.Thread(target=send, args=(name,)) for name in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        got = drain(receiver)
        while len(got) < 3 * each:
            sender.flush()
            got += drain(receiver)
        for name in range(3):
            mine = [g for g in got if g.startswith(b"%d " % name)]
            assert mine == [b"%d %d" % (name, number) for number in range(each)]


def test_waiting_ends_with_a_datagram_or_with_the_time(path: Path) -> None:
    with Receiver(path) as receiver, Sender(path) as sender:
        assert receiver.receive(0.01) is None
        timer = threading.Timer(0.02, sender.send, args=(b"late",))
        timer.start()
        assert receiver.receive(20.0) == b"late"
        timer.join()


def test_the_socket_is_private_and_removed_at_the_end(path: Path) -> None:
    with Receiver(path) as receiver:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert receiver.fileno() >= 0
    assert not path.exists()
    receiver.close()


def test_the_name_of_a_successor_is_left_alone(path: Path) -> None:
    first = Receiver(path)
    path.unlink()
    with Receiver(path) as second:
        first.close()
        with Sender(path) as sender:
            assert sender.send(b"x")
        assert second.receive() == b"x"
