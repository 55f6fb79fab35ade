//! One task in full: every field that is set, a line each. Pure.

use muster_proto::v1::{Task, TaskStatus};

use crate::{
    output::words::{
        describe_exit_code, describe_failure, describe_signal, duration_between, rfc3339, task_word,
    },
    progress::command,
    sanitize::{lines, one_line},
};

/// The names stand in a column of this width.
const NAME_WIDTH: usize = 14;

/// The task for people; `url` and `batch_id` for the commands that it names.
pub fn task_details(task: &Task, url: &str, batch_id: &str) -> String {
    let mut out = Details(String::new());
    out.put("task", &task.index.to_string());
    out.put("label", &task.label);
    out.put("status", &status(task));
    if task.status() == TaskStatus::Failed {
        out.put("failure", &describe_failure(task));
    } else {
        out.put("why", &task.failure_message);
    }
    out.put("next attempt", &task.next_attempt_time.as_ref().and_then(rfc3339).unwrap_or_default());
    if task.attempt > 0 {
        let index = task.index;
        out.put("its log", &command(url, &format!("logs {} {index}", one_line(batch_id))));
        out.put("log size", &size(task));
        out.put("attempt", &task.attempt.to_string());
    }
    out.put("worker", &task.worker_id);
    out.number("pid", i64::from(task.pid));
    out.put("exit code", &task.exit_code.map(describe_exit_code).unwrap_or_default());
    if task.signal != 0 {
        out.put("signal", &describe_signal(task.signal));
    }
    out.put("started", &task.start_time.as_ref().and_then(rfc3339).unwrap_or_default());
    out.put("ended", &task.end_time.as_ref().and_then(rfc3339).unwrap_or_default());
    out.put("took", &duration_between(task.start_time.as_ref(), task.end_time.as_ref()).unwrap_or_default());
    out.put("output", &task.output_path);
    for late in &task.late_results {
        let outcome = match (late.signal, late.exit_code) {
            (0, Some(code)) => format!("exit code {code}"),
            (0, None) => "no exit code".to_owned(),
            (signal, _) => format!("signal {signal}"),
        };
        let time = late.receive_time.as_ref().and_then(rfc3339).unwrap_or_default();
        out.put("late result", &format!("attempt {}: {outcome} {time}", late.attempt));
    }
    let model = if task.display_name.is_empty() || task.display_name == task.model {
        task.model.clone()
    } else {
        format!("{} ({})", task.model, task.display_name)
    };
    out.put("model", &model);
    out.put("prompt", &task.prompt);
    for (name, values) in
        [("image", &task.image), ("audio", &task.audio), ("video", &task.video), ("param", &task.param)]
    {
        values.iter().for_each(|value| out.put(name, value));
    }
    for (name, value) in [
        ("aspect ratio", &task.aspect_ratio),
        ("resolution", &task.resolution),
        ("steps", &task.steps),
        ("duration", &task.duration),
        ("seed", &task.seed),
        ("model name", &task.model_name),
        ("width", &task.width),
        ("height", &task.height),
    ] {
        out.put(name, value);
    }
    out.flag("random seed", task.random_seed);
    out.flag("sync", task.sync);
    out.put("run mode", &task.run_mode);
    let words: Vec<String> = task.command_preview.iter().map(|word| quoted(word)).collect();
    out.put("command", &words.join(" "));
    out.0
}

fn status(task: &Task) -> String {
    let word = task_word(task.status());
    match task.status() {
        TaskStatus::Running if task.cancel_requested => format!("{word}, being cancelled"),
        TaskStatus::Cancelled if task.attempt > 0 && !task.end_confirmed => {
            format!("{word}; its worker was lost before it confirmed the end")
        }
        _ => word.to_owned(),
    }
}

fn size(task: &Task) -> String {
    if task.discarded_log_bytes > 0 {
        format!("{} bytes, and {} past the limit thrown away", task.log_bytes, task.discarded_log_bytes)
    } else {
        format!("{} bytes", task.log_bytes)
    }
}

/// A word as a shell would have to be given it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%{}".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

struct Details(String);

impl Details {
    /// A line, where there is something to say; further lines of it stand below its first.
    fn put(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        let indent = " ".repeat(NAME_WIDTH);
        let value = lines(value.trim_end_matches('\n')).replace('\n', &format!("\n{indent}"));
        self.0.push_str(&format!("{name:NAME_WIDTH$}{value}\n"));
    }

    fn number(&mut self, name: &str, value: i64) {
        if value != 0 {
            self.put(name, &value.to_string());
        }
    }

    fn flag(&mut self, name: &str, value: bool) {
        if value {
            self.put(name, "yes");
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_proto::v1::{FailureReason, LateResult};
    use prost_types::Timestamp;

    use super::*;

    const URL: &str = "http://other:1";

    #[test]
    fn a_task_that_waits_for_its_retry_says_why_and_until_when() {
        let task = Task {
            index: 3,
            status: TaskStatus::Queued.into(),
            failure_reason: FailureReason::ExitCode.into(),
            failure_message:
                "attempt 1 of 3: the program exited with code 75; the next one starts after 10 s".into(),
            next_attempt_time: Some(Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            ..Task::default()
        };
        let text = task_details(&task, URL, "b1");
        assert!(text.contains("why           attempt 1 of 3"), "{text}");
        assert!(text.contains("next attempt  2023-11-14T22:13:20"), "{text}");
    }

    #[test]
    fn a_task_that_failed_says_why_and_how_to_see_more() {
        let time = |seconds: i64| Some(Timestamp { seconds: 1_700_000_000 + seconds, nanos: 0 });
        let task = Task {
            index: 3,
            label: "a cat".to_owned(),
            status: TaskStatus::Failed.into(),
            failure_reason: FailureReason::ExitCode.into(),
            failure_message: "no credit\u{1b}[2J".to_owned(),
            exit_code: Some(3),
            model: "b2-t2i".to_owned(),
            display_name: "Model B2".to_owned(),
            prompt: "a cat\non a mat\n".to_owned(),
            param: vec!["cfg=3".to_owned(), "x='y'".to_owned()],
            attempt: 2,
            worker_id: "w1".to_owned(),
            pid: 42,
            start_time: time(0),
            end_time: time(75),
            log_bytes: 10,
            discarded_log_bytes: 5,
            random_seed: true,
            run_mode: "confirm_run".to_owned(),
            command_preview: ["--prompt", "it's a cat", "--output", "{output}"].map(str::to_owned).to_vec(),
            late_results: vec![LateResult {
                attempt: 1,
                exit_code: Some(0),
                signal: 0,
                receive_time: time(80),
            }],
            ..Task::default()
        };
        insta::assert_snapshot!(task_details(&task, URL, "b1"), @r"
        task          3
        label         a cat
        status        failed
        failure       exit code 3: no credit␛[2J
        its log       muster --coordinator http://other:1 logs b1 3
        log size      10 bytes, and 5 past the limit thrown away
        attempt       2
        worker        w1
        pid           42
        exit code     3
        started       2023-11-14T22:13:20Z
        ended         2023-11-14T22:14:35Z
        took          1 min 15 s
        late result   attempt 1: exit code 0 2023-11-14T22:14:40Z
        model         b2-t2i (Model B2)
        prompt        a cat
                      on a mat
        param         cfg=3
        param         x='y'
        random seed   yes
        run mode      confirm_run
        command       --prompt 'it'\''s a cat' --output {output}
        ");
    }

    #[test]
    fn an_end_by_signal_and_a_shells_word_for_one_are_told_apart() {
        let end = |exit_code, signal| {
            let task = Task { index: 1, exit_code, signal, ..Task::default() };
            let text = task_details(&task, URL, "b1");
            text.lines()
                .find(|line| line.starts_with("exit") || line.starts_with("signal"))
                .unwrap()
                .to_owned()
        };
        assert_eq!(end(None, 9), "signal        9 (SIGKILL; a shell shows 137)");
        assert_eq!(end(None, 40), "signal        40 (a shell shows 168)");
        assert_eq!(end(Some(137), 0), "exit code     137 (a shell's word for SIGKILL)");
        assert_eq!(end(Some(127), 0), "exit code     127 (a shell's word for a command that it cannot find)");
        assert_eq!(end(Some(200), 0), "exit code     200");
    }

    #[test]
    fn a_task_that_waits_says_only_what_is_known() {
        let task = Task { index: 1, status: TaskStatus::Queued.into(), ..Task::default() };
        assert_eq!(task_details(&task, URL, "b1"), "task          1\nstatus        queued\n");
    }
}
