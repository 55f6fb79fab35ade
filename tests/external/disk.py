"""A disk that runs full under a coordinator: a small tmpfs in a mount namespace of its own, which root may make, and
elsewhere whoever may make user namespaces.
"""

import json
import os
import subprocess
import tempfile
import threading

WAIT = 60
DISK_FAILED = 74
CHECKS = []

# First with little room, until it ends; then with more, on the same data.
SCRIPT = """
mount -t tmpfs -o size=12m muster "$1" || exit 99
head -c 8M /dev/zero > "$1/filler" || exit 98
shift
"$@"
echo "ended with $?"
rm "$0/filler"
exec "$@"
"""


def a_full_disk_stops_the_coordinator_and_nothing_acknowledged_is_lost(ctx):
    with tempfile.TemporaryDirectory(prefix="muster-disk-") as folder:
        coordinator = [
            f"{ctx.bins}/muster-coordinator", "--listen", "127.0.0.1:0", "--data-dir", f"{folder}/data",
            "--secrets-key-file", f"{folder}/key", "--min-free-bytes", "0", "--system-max-tasks", "5000"]
        namespaces = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
        process = subprocess.Popen(
            [*namespaces, "sh", "-c", SCRIPT, folder, folder, *coordinator],
            env=ctx.fleet.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        timer = threading.Timer(2 * WAIT, process.kill)
        timer.start()
        try:
            stored = fill(ctx, folder, expect(process, "muster-coordinator listening on "))
            assert stored, "there was some room"
            assert expect(process, "ended with ") == str(DISK_FAILED)
            address = expect(process, "muster-coordinator listening on ")
            listed = muster(ctx, address, ["list", "--output", "jsonl"]).stdout
            there = {json.loads(line)["batch_id"] for line in listed.splitlines()}
            assert set(stored) <= there, (stored, there)
            assert muster(ctx, address, ["submit", "-m", "bpro-t2i", "a cat"]).returncode == 0
        finally:
            timer.cancel()
            process.kill()
            process.wait()


def fill(ctx, folder, address):
    """Submits until it is refused: the ids of what was acknowledged."""
    payload = os.path.join(tempfile.mkdtemp(dir=ctx.fleet.dir), "batch.json")
    with open(payload, "w") as file:
        json.dump([f"{number} " + "x" * 2000 for number in range(300)], file)
    stored = []
    while len(stored) < 1000:
        done = muster(ctx, address, ["submit", payload, "--task-count-approved"])
        if done.returncode != 0:
            return stored
        stored.append(done.stdout.strip())
    raise AssertionError(f"{folder} never ran full")


def muster(ctx, address, arguments):
    return subprocess.run(
        [f"{ctx.bins}/muster", "--coordinator", f"http://{address}", *arguments],
        env=ctx.fleet.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WAIT, check=False)


def expect(process, start):
    """The rest of the next line that begins like this."""
    for line in process.stdout:
        if line.startswith(start):
            return line[len(start):].strip()
    raise AssertionError(f"it ended ({process.wait()}) before it said {start!r}")


CHECKS.append(a_full_disk_stops_the_coordinator_and_nothing_acknowledged_is_lost)
