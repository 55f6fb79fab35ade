"""Drives a coordinator and a worker from outside; started by `run`, which installs what it needs.

Every check is a function with a name that says what is promised. Prints a line for each and, at the end,
how many passed and failed; exits 1 if any failed.
"""

import argparse
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import disk
import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
import terminal
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

WAIT = 60
BATCHES = "muster.v1.BatchService"
FLEET = "muster.v1.FleetService"
WORKERS = "muster.v1.WorkerService"
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


# ---------------------------------------------------------------- processes


class Fleet:
    """A coordinator, a stand-in for the API of models, and one worker that runs the probe, in a temporary folder."""

    def __init__(self, bins):
        self.dir = tempfile.mkdtemp(prefix="muster-external-")
        self.probe_dir = os.path.join(self.dir, "probe")
        os.mkdir(self.probe_dir)
        self.env = dict(os.environ, MUSTER_PROBE_DIR=self.probe_dir)
        self.started = []
        models = self.start("stand-in-api listening on ", [f"{bins}/stand-in-api", "--listen", "127.0.0.1:0"])
        self.address = self.start(
            "muster-coordinator listening on ",
            [f"{bins}/muster-coordinator", "--listen", "127.0.0.1:0", "--data-dir", f"{self.dir}/data",
             "--contract-base-url", f"http://{models}"],
        )
        self.start(
            "muster-worker connected to ",
            [f"{bins}/muster-worker", "--coordinator", f"http://{self.address}", "--dispatch", f"{bins}/probe",
             "--name", "outside", "--slots", "3", "--work-dir", f"{self.dir}/work"],
        )

    def start(self, line, command):
        name = os.path.basename(command[0])
        with open(f"{self.dir}/{name}.log", "ab") as log:
            process = subprocess.Popen(
                command, env=self.env, cwd=self.dir, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        self.started.append(process)
        # Ends a start that never gets ready; reading its output then ends too.
        timer = threading.Timer(WAIT, process.kill)
        timer.start()
        for text in process.stdout:
            text = text.decode()
            if text.startswith(line):
                timer.cancel()
                threading.Thread(target=lambda: [None for _ in process.stdout], daemon=True).start()
                return text[len(line):].strip()
        self.print_logs()
        raise SystemExit(f"{name} ended before it said {line!r}")

    def print_logs(self):
        for name in sorted(os.listdir(self.dir)):
            if name.endswith(".log"):
                with open(f"{self.dir}/{name}", errors="replace") as log:
                    print(f"--- {name}\n{''.join(log.readlines()[-40:])}", flush=True)

    def touch(self, name):
        open(f"{self.probe_dir}/{name}", "w").close()

    def wait_for(self, name):
        deadline = time.monotonic() + WAIT
        while not os.path.exists(f"{self.probe_dir}/{name}"):
            assert time.monotonic() < deadline, f"no {name} within {WAIT} s"
            time.sleep(0.01)

    def stop(self):
        for process in self.started:
            process.kill()
            process.wait()
        # Runners and tasks are processes of their own by design: known by our folder in their environment.
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            left = [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) != os.getpid() and self.owns(pid)]
            if not left:
                break
            for pid in left:
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.02)
        shutil.rmtree(self.dir, ignore_errors=True)

    def owns(self, pid):
        for name in ("environ", "cmdline"):
            try:
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    if self.dir.encode() in file.read():
                        return True
            except OSError:
                pass
        return False


def run(command, text=None, timeout=WAIT):
    result = subprocess.run(command, input=text, capture_output=True, text=True, timeout=timeout)
    return result.returncode, result.stdout, result.stderr


def documents(text):
    """The JSON documents of a stream, one after the other."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        document, at = decoder.raw_decode(text, at)
        found.append(document)
    return found


class Grpcurl:
    def __init__(self, program, address):
        self.program, self.address = program, address

    def raw(self, method, request=None, flags=()):
        # The request goes through standard input, so that it may have any size.
        command = [self.program, "-plaintext", *flags, "-d", "@", self.address, method]
        return run(command, json.dumps(request or {}))

    def call(self, method, request=None, flags=()):
        code, out, err = self.raw(method, request, flags)
        assert code == 0, f"{method} failed: {err[:2000]}"
        return documents(out)

    def submit(self, payload, **fields):
        fields["batchJson"] = payload if isinstance(payload, str) else json.dumps(payload)
        return self.call(f"{BATCHES}/SubmitBatch", fields)[0]["batch"]

    def refused(self, method, request, code, *words, flags=()):
        """The call fails with this code, and says each of these words in its message or details."""
        exit_code, out, err = self.raw(method, request, flags)
        assert exit_code != 0, f"it was accepted: {out[:500]}"
        codes = code if isinstance(code, tuple) else (code,)
        assert any(f"Code: {code}" in err for code in codes), f"not {codes}: {err[:2000]}"
        for word in words:
            assert word in err, f"does not say {word!r}: {err[:2000]}"
        return err


# ---------------------------------------------------------------- the main way, by grpcurl


@check
def buf_lint_passes(ctx):
    code, out, err = run([ctx.buf, "lint", ctx.proto])
    assert code == 0, out + err


@check
def grpcurl_lists_the_services_through_reflection_v1alpha(ctx):
    code, out, err = run([ctx.grpcurl.program, "-plaintext", ctx.grpcurl.address, "list"])
    assert code == 0, err
    for service in (BATCHES, FLEET, WORKERS, "grpc.health.v1.Health"):
        assert service in out.split(), out


@check
def grpcurl_describes_a_message(ctx):
    code, out, err = run([ctx.grpcurl.program, "-plaintext", ctx.grpcurl.address, "describe", "muster.v1.Task"])
    assert code == 0 and "failure_reason" in out, out + err


@check
def health_is_serving(ctx):
    assert ctx.grpcurl.call("grpc.health.v1.Health/Check") == [{"status": "SERVING"}]


@check
def grpcurl_submits_watches_and_reads_status_and_logs(ctx):
    batch = ctx.grpcurl.submit(["say eins;touch ext-up;wait ext-go;say 竹", "say zwei;exit 3"], concurrency=2)
    ctx.fleet.wait_for("ext-up")
    status = ctx.grpcurl.call(f"{BATCHES}/GetBatch", {"batchId": batch["batchId"]})[0]["batch"]
    assert status["schedulerStatus"] == "SCHEDULER_STATUS_RUNNING", status
    ctx.fleet.touch("ext-go")
    news = ctx.grpcurl.call(f"{BATCHES}/WatchBatch", {"batchId": batch["batchId"]})
    assert news[-1]["batch"]["schedulerStatus"] == "SCHEDULER_STATUS_COMPLETED", news[-1]
    revisions = [int(message["revision"]) for message in news]
    assert revisions == sorted(revisions), revisions
    status = ctx.grpcurl.call(f"{BATCHES}/GetBatch", {"batchId": batch["batchId"]})[0]["batch"]
    tasks = status["tasks"]
    assert [task["status"] for task in tasks] == ["TASK_STATUS_COMPLETED", "TASK_STATUS_FAILED"], tasks
    assert tasks[1]["exitCode"] == 3 and tasks[1]["failureReason"] == "FAILURE_REASON_EXIT_CODE", tasks[1]
    assert tasks[0]["exitCode"] == 0, "an exit code of 0 is shown, not left out"
    log = ctx.grpcurl.call(f"{BATCHES}/TailLogs", {"batchId": batch["batchId"], "taskIndex": 1, "follow": True})
    assert "".join(piece.get("text", "") for piece in log) == "eins\n竹\n", log
    assert log[-1]["endOfLog"] is True
    # A watch goes on from a revision.
    request = {"batchId": batch["batchId"], "afterRevision": news[-1]["revision"], "lifeId": news[-1]["lifeId"]}
    ctx.grpcurl.call(f"{BATCHES}/WatchBatch", request)
    err = ctx.grpcurl.refused(f"{BATCHES}/WatchBatch", dict(request, lifeId="0000000000001"), "OutOfRange")
    assert "Message:" in err


@check
def a_log_is_followed_while_it_grows(ctx):
    batch = ctx.grpcurl.submit(["say begun;wait ext-grow;say ended"])
    request = json.dumps({"batchId": batch["batchId"], "taskIndex": 1, "follow": True})
    command = [ctx.grpcurl.program, "-plaintext", "-d", request, ctx.grpcurl.address, f"{BATCHES}/TailLogs"]
    tail = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    timer = threading.Timer(WAIT, tail.kill)
    timer.start()
    seen = ""
    for line in tail.stdout:
        seen += line
        if "begun" in line:
            ctx.fleet.touch("ext-grow")
    timer.cancel()
    text = "".join(piece.get("text", "") for piece in documents(seen))
    assert tail.wait() == 0 and text == "begun\nended\n", seen


@check
def grpcurl_prefills_edits_and_submits_the_cards(ctx):
    request = {"batchJson": json.dumps(["say a prefill", {"model": "wan", "prompt": "say b", "duration": 8}]),
               "apiKey": "sk-outside", "lang": "zh"}
    reply = ctx.grpcurl.call(f"{BATCHES}/PrefillBatch", request)[0]
    assert reply["mode"] == "batch_prefill" and reply["taskCount"] == 2, reply
    assert [(task["index"], task["model"]) for task in reply["tasks"]] == [(1, "bpro-t2i"), (2, "wan27-t2v")], reply
    assert "提示词：say a prefill" in reply["tasks"][0]["cardMarkdown"], reply
    assert "比例" in reply["tasks"][0]["cardMarkdown"] and "时长：8" in reply["tasks"][1]["cardMarkdown"], reply
    cards = reply["replyMarkdown"].replace("时长：8", "时长：10秒")
    request = {"cardsMarkdown": cards, "validateOnly": True}
    planned = ctx.grpcurl.call(f"{BATCHES}/SubmitBatch", request)[0]["batch"]["tasks"]
    assert planned[0]["commandPreview"][:4] == ["--model", "bpro-t2i", "--prompt", "say a prefill"], planned
    assert "--duration 10" in " ".join(planned[1]["commandPreview"]), planned


@check
def a_prefill_without_a_key_says_where_one_can_stand(ctx):
    ctx.grpcurl.refused(f"{BATCHES}/PrefillBatch", {"batchJson": '["a"]', "apiKey": "YOUR_API_KEY"},
                        "FailedPrecondition", "NO_API_KEY", "--api-key-file", "credentials.api_key")


@check
def cards_that_cannot_be_read_are_refused_by_line(ctx):
    request = {"cardsMarkdown": "- model: bpro-t2i\n- seed: soon\n"}
    ctx.grpcurl.refused(f"{BATCHES}/SubmitBatch", request, INVALID, "cards[1].seed", "line 2")


@check
def lists_policy_and_workers_are_shown(ctx):
    policy = ctx.grpcurl.call(f"{BATCHES}/GetPolicy")[0]
    expected = {"maxConcurrency": 3, "maxTasks": 5, "systemMaxConcurrency": 5, "systemMaxTasks": 10}
    assert policy == expected, policy
    workers = ctx.grpcurl.call(f"{FLEET}/ListWorkers")[0]["workers"]
    assert [(worker["workerId"], worker["status"]) for worker in workers] == [("outside", "WORKER_STATUS_CONNECTED")]
    ids, token = [], ""
    while True:
        page = ctx.grpcurl.call(f"{BATCHES}/ListBatches", {"pageSize": 1, "pageToken": token})[0]
        ids += [batch["batchId"] for batch in page.get("batches", [])]
        token = page.get("nextPageToken", "")
        if not token:
            break
    assert len(ids) >= 2 and len(set(ids)) == len(ids), ids


@check
def a_batch_is_cancelled_and_retried(ctx):
    batch = ctx.grpcurl.submit(["say up;touch ext-long;wait ext-never-1"])
    ctx.fleet.wait_for("ext-long")
    request = {"batchId": batch["batchId"], "reason": "enough"}
    ctx.grpcurl.call(f"{BATCHES}/CancelBatch", request)
    news = ctx.grpcurl.call(f"{BATCHES}/WatchBatch", {"batchId": batch["batchId"]})
    assert news[-1]["batch"]["schedulerStatus"] == "SCHEDULER_STATUS_CANCELLED", news[-1]
    ctx.fleet.touch("ext-never-1")
    ctx.grpcurl.call(f"{BATCHES}/RetryBatch", {"batchId": batch["batchId"]})
    news = ctx.grpcurl.call(f"{BATCHES}/WatchBatch", {"batchId": batch["batchId"]})
    assert news[-1]["batch"]["schedulerStatus"] == "SCHEDULER_STATUS_COMPLETED", news[-1]


# ---------------------------------------------------------------- bad input, by grpcurl


def refused_payload(name, payload, code, *words, **fields):
    def function(ctx):
        request = dict(fields)
        request["batchJson"] = payload() if callable(payload) else payload
        before = ctx.count_batches()
        ctx.grpcurl.refused(f"{BATCHES}/SubmitBatch", request, code, *words)
        assert ctx.count_batches() == before, "something was stored"

    function.__name__ = name
    CHECKS.append(function)


INVALID = "InvalidArgument"
refused_payload("not_json_is_refused", "hello", INVALID, "google.rpc.BadRequest")
refused_payload("an_empty_array_is_refused", "[]", INVALID, "google.rpc.BadRequest")
refused_payload("a_wrong_type_is_refused", '["a", 7]', INVALID, "tasks[2]")
refused_payload("a_boolean_in_a_number_field_is_refused", '["a", {"steps": true}]', INVALID, "tasks[2].steps")
refused_payload("an_unknown_key_is_refused", '[{"promt": "a"}]', INVALID, "tasks[1].promt", "prompt")
refused_payload("zero_concurrency_is_refused", '["a"]', INVALID, "concurrency", concurrency=0)
refused_payload("negative_concurrency_is_refused", '["a"]', INVALID, "concurrency", concurrency=-1)
refused_payload("unreadable_concurrency_in_the_payload_is_refused", '{"tasks": ["a"], "concurrency": "x"}', INVALID,
                "concurrency")
refused_payload("a_million_tasks_are_refused", lambda: "[" + ",".join(['""'] * 1_000_000) + "]", "ResourceExhausted",
                "BATCH_TASK_LIMIT_EXCEEDED", "1000000", "google.rpc.QuotaFailure")
refused_payload("too_many_tasks_need_approval", json.dumps([""] * 6), "FailedPrecondition",
                "BATCH_TASK_COUNT_REQUIRES_APPROVAL")
refused_payload("too_much_concurrency_needs_approval", '["a", "b"]', "FailedPrecondition",
                "BATCH_CONCURRENCY_REQUIRES_APPROVAL", concurrency=4)
refused_payload("concurrency_above_the_hard_limit_is_refused", '["a", "b"]', "ResourceExhausted",
                "BATCH_CONCURRENCY_LIMIT_EXCEEDED", concurrency=6)
refused_payload("a_search_flow_is_refused", '[{"scene": "6"}]', "FailedPrecondition",
                "BATCH_SEARCH_FLOW_NOT_SUPPORTED")
refused_payload("a_payload_of_100_mb_is_refused", lambda: '["' + "x" * 100_000_000 + '"]',
                ("ResourceExhausted", "OutOfRange", INVALID))
refused_payload("a_prompt_of_nul_bytes_is_refused", json.dumps(["\0\0"]), INVALID, "tasks[1].prompt")
refused_payload("a_prompt_of_1_mb_is_refused", lambda: json.dumps(["x" * 1_000_000]), INVALID, "tasks[1].prompt")
refused_payload("a_card_with_a_bad_number_is_refused", json.dumps([{"card_input": "时长：soon"}]), INVALID, "tasks[1]")
refused_payload("an_overlong_request_id_is_refused", '["a"]', INVALID, "request_id", requestId="x" * 129)


@check
def both_payload_forms_at_once_are_refused(ctx):
    request = {"batchJson": '["a"]', "tasks": [{"prompt": "b"}]}
    ctx.grpcurl.refused(f"{BATCHES}/SubmitBatch", request, INVALID)


@check
def an_unknown_batch_is_not_found_everywhere(ctx):
    for method in ("GetBatch", "ListTasks", "WatchBatch", "CancelBatch", "RetryBatch"):
        ctx.grpcurl.refused(f"{BATCHES}/{method}", {"batchId": "0000000000000"}, "NotFound")
    ctx.grpcurl.refused(f"{BATCHES}/TailLogs", {"batchId": "0000000000000", "taskIndex": 1}, "NotFound")


@check
def page_tokens_from_elsewhere_are_refused(ctx):
    ctx.grpcurl.refused(f"{BATCHES}/ListBatches", {"pageToken": "elsewhere"}, INVALID, "page_token")
    batch = ctx.grpcurl.submit(["", "", ""], validateOnly=False)
    page = ctx.grpcurl.call(f"{BATCHES}/ListBatches", {"pageSize": 1})[0]
    request = {"batchId": batch["batchId"], "pageToken": page["nextPageToken"]}
    ctx.grpcurl.refused(f"{BATCHES}/ListTasks", request, INVALID, "page_token")


@check
def an_index_out_of_range_is_refused(ctx):
    batch = ctx.grpcurl.submit(["say a"])
    for index in (0, 2, -1):
        request = {"batchId": batch["batchId"], "taskIndex": index}
        ctx.grpcurl.refused(f"{BATCHES}/TailLogs", request, (INVALID, "NotFound"))
    for method in ("CancelBatch", "RetryBatch"):
        request = {"batchId": batch["batchId"], "taskIndexes": [9]}
        ctx.grpcurl.refused(f"{BATCHES}/{method}", request, (INVALID, "NotFound"))


HELLO = {"protocol": 1, "instanceId": "0123456789abcdef0123456789abcdef", "bootId": "b", "slots": 1, "version": "0"}


@check
def a_worker_with_a_used_name_is_refused(ctx):
    hello = dict(HELLO, name="outside")
    ctx.grpcurl.refused(f"{WORKERS}/Attach", {"hello": hello}, "AlreadyExists", "outside")


@check
def a_worker_that_speaks_nonsense_is_refused(ctx):
    for message in ({"heartbeat": {}}, {}, {"hello": {}}, {"hello": dict(HELLO, name="a/b")},
                    {"hello": dict(HELLO, name="x", slots=0)}):
        ctx.grpcurl.refused(f"{WORKERS}/Attach", message, (INVALID, "FailedPrecondition"))


# ---------------------------------------------------------------- buf curl, and Python through reflection


@check
def buf_curl_goes_the_main_way(ctx):
    def call(method, request):
        command = [ctx.buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "-d", "@-",
                   f"http://{ctx.grpcurl.address}/{BATCHES}/{method}"]
        code, out, err = run(command, json.dumps(request))
        assert code == 0, f"{method}: {err}"
        return documents(out)

    batch = call("SubmitBatch", {"batchJson": '["say by buf"]'})[0]["batch"]
    news = call("WatchBatch", {"batchId": batch["batchId"]})
    assert news[-1]["batch"]["schedulerStatus"] == "SCHEDULER_STATUS_COMPLETED", news[-1]
    status = call("GetBatch", {"batchId": batch["batchId"]})[0]["batch"]
    assert status["tasks"][0]["status"] == "TASK_STATUS_COMPLETED", status
    log = call("TailLogs", {"batchId": batch["batchId"], "taskIndex": 1})
    assert "".join(piece.get("text", "") for piece in log) == "by buf\n", log


@check
def buf_curl_shows_a_refusal(ctx):
    command = [ctx.buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "-d", '{"batchJson": "[]"}',
               f"http://{ctx.grpcurl.address}/{BATCHES}/SubmitBatch"]
    code, out, err = run(command)
    assert code != 0 and "invalid_argument" in out + err, out + err


@check
def python_goes_the_main_way_through_reflection(ctx):
    with grpc.insecure_channel(ctx.grpcurl.address) as channel:
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        service = pool.FindServiceByName(BATCHES)

        def call(name, request):
            method = service.FindMethodByName(name)
            message = json_format.ParseDict(request, message_factory.GetMessageClass(method.input_type)())
            reply = message_factory.GetMessageClass(method.output_type)
            kind = channel.unary_stream if method.server_streaming else channel.unary_unary
            stub = kind(f"/{BATCHES}/{name}", type(message).SerializeToString, reply.FromString)
            return stub(message, timeout=WAIT)

        batch = call("SubmitBatch", {"batchJson": '["say by Python;utf8bad"]'}).batch
        last = list(call("WatchBatch", {"batchId": batch.batch_id}))[-1]
        assert last.batch.counts.completed == 1, last
        pieces = list(call("TailLogs", {"batchId": batch.batch_id, "taskIndex": 1, "raw": True}))
        log = b"".join(piece.data for piece in pieces)
        assert log.startswith(b"by Python\nok \x80"), log
        try:
            call("GetBatch", {"batchId": "0000000000000"})
            raise AssertionError("an unknown batch was found")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, error


@check
def raw_logs_come_as_bytes_to_grpcurl(ctx):
    batch = ctx.grpcurl.submit(["utf8bad"])
    ctx.grpcurl.call(f"{BATCHES}/WatchBatch", {"batchId": batch["batchId"]})
    pieces = ctx.grpcurl.call(f"{BATCHES}/TailLogs", {"batchId": batch["batchId"], "taskIndex": 1, "raw": True})
    log = b"".join(base64.b64decode(piece.get("data", "")) for piece in pieces)
    assert log == b"ok \x80 cut \xe7\xab overlong \xc0\xaf surrogate \xed\xa0\x80 end\n", log


CHECKS.extend(terminal.CHECKS)
CHECKS.extend(disk.CHECKS)


@check
def the_coordinator_and_its_worker_are_unharmed(ctx):
    assert all(process.poll() is None for process in ctx.fleet.started)
    assert ctx.grpcurl.call("grpc.health.v1.Health/Check") == [{"status": "SERVING"}]


# ---------------------------------------------------------------- all of it


class Context:
    def __init__(self, arguments):
        self.buf, self.proto, self.bins = arguments.buf, arguments.proto, os.path.abspath(arguments.bins)
        self.fleet = Fleet(arguments.bins)
        self.grpcurl = Grpcurl(arguments.grpcurl, self.fleet.address)

    def count_batches(self):
        return len(self.grpcurl.call(f"{BATCHES}/ListBatches", {"pageSize": 1000})[0].get("batches", []))


def main():
    parser = argparse.ArgumentParser()
    for name in ("grpcurl", "buf", "bins", "proto"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--only", default="", help="run the checks whose names contain this")
    arguments = parser.parse_args()
    context = Context(arguments)
    passed, failed = 0, 0
    try:
        for function in CHECKS:
            if arguments.only not in function.__name__:
                continue
            name = function.__name__.replace("_", " ")
            try:
                function(context)
                passed += 1
                print(f"ok      {name}", flush=True)
            except Exception:  # pylint: disable=broad-except
                failed += 1
                print(f"FAILED  {name}\n{traceback.format_exc()}", flush=True)
        if failed:
            context.fleet.print_logs()
    finally:
        context.fleet.stop()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
