"""Checks of the live view through tmux: what stands on a real terminal's screen. Run by `drive.py`."""

import json
import os
import subprocess
import time
import unicodedata

WAIT = 60


class Screen:
    """A shell in a tmux session of its own, 80 columns by 24 lines."""

    def __init__(self, ctx):
        self.socket = os.path.join(ctx.fleet.dir, f"tmux-{time.monotonic_ns()}")
        env = dict(os.environ, MUSTER_COORDINATOR=f"http://{ctx.grpcurl.address}", TERM="screen",
                   PATH=f"{ctx.bins}:{os.environ['PATH']}", PS1="ready> ", LC_ALL="C.UTF-8")
        for name in ("NO_COLOR", "CLICOLOR_FORCE", "BIZYAIR_API_KEY", "MUSTER_OUTPUT"):
            env.pop(name, None)
        subprocess.run(["tmux", "-u", "-S", self.socket, "-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24",
                        "bash", "--norc", "--noprofile", "-i"], env=env, check=True, timeout=WAIT)
        self.wait("a shell", lambda text: "ready>" in text)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run(["tmux", "-S", self.socket, "kill-server"], check=False, timeout=WAIT)

    def tmux(self, *words):
        return subprocess.run(["tmux", "-S", self.socket, *words], capture_output=True, text=True, check=True,
                              timeout=WAIT).stdout

    def type(self, text):
        self.tmux("send-keys", "-l", text)
        self.tmux("send-keys", "Enter")

    def press(self, key):
        self.tmux("send-keys", key)

    def text(self):
        return self.tmux("capture-pane", "-p")

    def wait(self, what, is_there):
        deadline = time.monotonic() + WAIT
        while True:
            text = self.text()
            if is_there(text):
                return text
            assert time.monotonic() < deadline, f"{what} is not on the screen within {WAIT} s:\n{text}"
            time.sleep(0.02)


def columns(line):
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


def batch_file(ctx, name, tasks):
    path = os.path.join(ctx.fleet.dir, f"{name}.json")
    with open(path, "w") as file:
        json.dump(tasks, file)
    return path


def the_live_view_fits_the_terminal_and_follows_its_size(ctx):
    tasks = ["say eins;wait tmux-go", {"label": "竹林 bamboo " * 9, "prompt": "say zwei;wait tmux-go"},
             {"label": "third", "prompt": "wait tmux-go;say sorry;exit 3"}]
    file = batch_file(ctx, "tmux-view", tasks)
    with Screen(ctx) as screen:
        screen.type(f"clear; muster submit {file} --watch")
        text = screen.wait("the view", lambda text: "3 running" in text and "eins" in text and "竹林" in text)
        assert all(columns(line) <= 80 for line in text.splitlines()), text
        assert "0/3" in text, text
        screen.tmux("resize-window", "-x", "40", "-y", "24")
        # Painted anew for the new width: a bar that fits, once.
        narrow = screen.wait("the narrow view", lambda text: "3 running" in text and text.count("0/3") == 1)
        assert all(columns(line) <= 40 for line in narrow.splitlines()), narrow
        screen.tmux("resize-window", "-x", "80", "-y", "24")
        ctx.fleet.touch("tmux-go")
        end = screen.wait("the end", lambda text: text.rstrip().endswith("ready>"))
        for words in ("2 of 3 tasks completed", "exit code 3", "(third)", "muster", "logs"):
            assert words in end, f"no {words!r} in:\n{end}"
        assert "running" not in end.split("2 of 3 tasks completed")[1], end
        screen.type("echo left with $?")
        screen.wait("the exit code", lambda text: "left with 1" in text)


def keys_end_and_suspend_the_view_and_the_batch_goes_on(ctx):
    file = batch_file(ctx, "tmux-keys", ["say up;wait tmux-keys"])
    with Screen(ctx) as screen:
        screen.type(f"clear; muster submit {file} --watch")
        screen.wait("the view", lambda text: "1 running" in text)
        screen.press("C-z")
        screen.wait("the shell", lambda text: "Stopped" in text and text.rstrip().endswith("ready>"))
        screen.type("clear; fg")
        screen.wait("the view again", lambda text: "1 running" in text)
        screen.press("C-c")
        screen.wait("the shell", lambda text: text.rstrip().endswith("ready>"))
        screen.type("echo left with $?")
        screen.wait("the exit code", lambda text: "left with 130" in text)
        batch = ctx.grpcurl.call("muster.v1.BatchService/ListBatches", {"pageSize": 1})[0]["batches"][0]
        assert batch["schedulerStatus"] == "SCHEDULER_STATUS_RUNNING", batch
        screen.type(f"clear; muster watch {batch['batchId']} | head -n 1; echo ${{PIPESTATUS[0]}} left")
        ctx.fleet.touch("tmux-keys")
        # Nobody saw the end, so it does not claim that all has completed.
        screen.wait("a quiet end", lambda text: "1 left" in text and text.rstrip().endswith("ready>"))


CHECKS = [the_live_view_fits_the_terminal_and_follows_its_size, keys_end_and_suspend_the_view_and_the_batch_goes_on]
