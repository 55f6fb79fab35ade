//! The argument list of a task, and how it may be shown.
//!
//! A value never becomes a flag: what starts with `-` is joined to the flag that it belongs to. What this does
//! not do: know the program, or make up the output path.

use super::plan::{RunMode, TaskSpec};

/// A task's arguments, split where the output path goes in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArgList {
    /// Up to and without `--output`.
    pub before_output: Vec<String>,
    /// The task's own output path, if it has one.
    pub output: Option<String>,
    /// What follows the output path.
    pub after_output: Vec<String>,
}

impl ArgList {
    /// The whole list with this output path, whatever the task's own is.
    pub fn with_output(self, path: &str) -> Vec<String> {
        let mut all = self.before_output;
        push(&mut all, "--output", path);
        all.extend(self.after_output);
        all
    }
}

impl TaskSpec {
    /// The arguments after the dispatch program, in the order of the interface.
    pub fn arg_list(&self) -> ArgList {
        let mut before = Vec::new();
        push(&mut before, "--model", &self.model);
        give(&mut before, "--prompt", &self.prompt);
        give_all(&mut before, "--image", &self.image);
        give_all(&mut before, "--audio", &self.audio);
        give_all(&mut before, "--video", &self.video);
        give(&mut before, "--aspect-ratio", &self.aspect_ratio);
        give(&mut before, "--resolution", &self.resolution);
        give(&mut before, "--steps", &self.steps);
        give(&mut before, "--duration", &self.duration);
        give(&mut before, "--seed", &self.seed);
        if self.random_seed {
            before.push("--random-seed".to_owned());
        }
        give(&mut before, "--model-name", &self.model_name);
        give(&mut before, "--width", &self.width);
        give(&mut before, "--height", &self.height);
        give_all(&mut before, "--param", &self.param);

        let mut after = Vec::new();
        if self.sync {
            after.push("--sync".to_owned());
        }
        after.push(
            match self.run_mode {
                RunMode::RunWithDefaults => "--run-with-defaults",
                RunMode::ConfirmRun => "--confirm-run",
            }
            .to_owned(),
        );
        let output = (!self.output.is_empty()).then(|| self.output.clone());
        ArgList { before_output: before, output, after_output: after }
    }

    /// The whole list; `assigned` is the output path of a task that has none of its own.
    pub fn command(&self, assigned: &str) -> Vec<String> {
        let path = if self.output.is_empty() { assigned } else { &self.output };
        self.arg_list().with_output(path)
    }
}

/// An argument list as it may be shown: whatever stands where an API key would is `***`. The key is never
/// there; this is a second line of defence.
pub fn redact(args: &[String]) -> Vec<String> {
    const FLAG: &str = "--api-key";
    let before = std::iter::once(None).chain(args.iter().map(Some));
    args.iter()
        .zip(before)
        .map(|(arg, before)| match (before, arg.strip_prefix(FLAG)) {
            (Some(before), _) if before == FLAG => "***".to_owned(),
            (_, Some(rest)) if rest.starts_with('=') => format!("{FLAG}=***"),
            _ => arg.clone(),
        })
        .collect()
}

/// A flag with its value, when there is one.
fn give(args: &mut Vec<String>, flag: &str, value: &str) {
    if !value.is_empty() {
        push(args, flag, value);
    }
}

/// A flag again for each value.
fn give_all(args: &mut Vec<String>, flag: &str, values: &[String]) {
    for value in values {
        give(args, flag, value);
    }
}

/// A flag with its value: two arguments, or one where the value would look like a flag.
fn push(args: &mut Vec<String>, flag: &str, value: &str) {
    if value.starts_with('-') {
        args.push(format!("{flag}={value}"));
    } else {
        args.push(flag.to_owned());
        args.push(value.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(args: &[&str]) -> Vec<String> {
        args.iter().map(|arg| (*arg).to_owned()).collect()
    }

    #[test]
    fn the_order_is_the_interfaces() {
        let text = str::to_owned;
        let spec = TaskSpec {
            model: text("m"),
            prompt: text("p"),
            image: strings(&["i1", "i2"]),
            audio: strings(&["a"]),
            video: strings(&["v"]),
            aspect_ratio: text("1:1"),
            resolution: text("4K"),
            steps: text("1"),
            duration: text("2"),
            seed: text("3"),
            random_seed: true,
            model_name: text("n"),
            width: text("4"),
            height: text("5"),
            param: strings(&["x=1", "-y"]),
            sync: true,
            run_mode: RunMode::ConfirmRun,
            ..TaskSpec::default()
        };
        let expected = "--model m --prompt p --image i1 --image i2 --audio a --video v --aspect-ratio 1:1 \
                        --resolution 4K --steps 1 --duration 2 --seed 3 --random-seed --model-name n --width 4 \
                        --height 5 --param x=1 --param=-y --output /o --sync --confirm-run";
        assert_eq!(spec.command("/o").join(" "), expected);
    }

    #[test]
    fn an_own_output_goes_before_the_assigned_one_unless_it_was_resolved() {
        let spec = TaskSpec { model: "-m".into(), output: "-o".into(), ..TaskSpec::default() };
        assert_eq!(spec.command("/assigned"), ["--model=-m", "--output=-o", "--confirm-run"]);
        let list = spec.arg_list();
        assert_eq!(list.output.as_deref(), Some("-o"));
        assert_eq!(list.with_output("/out/-o"), ["--model=-m", "--output", "/out/-o", "--confirm-run"]);
    }

    #[test]
    fn nothing_that_follows_the_key_flag_is_shown() {
        let shown = redact(&strings(&["--api-key", "--api-key=k", "--api-keys", "--api-key="]));
        assert_eq!(shown, ["--api-key", "***", "--api-keys", "--api-key=***"]);
    }
}
