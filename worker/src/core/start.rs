//! From an offer to what the runner starts: the argument list and the environment.

use muster_proto::AttemptId;

use super::event::Offer;
use super::output::{OutputPolicy, OutputRefused, Placement};
use crate::runner::protocol::{AttemptKey, Env, Raw, Start};

/// How this worker starts programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchPlan {
    /// The program: absolute, or a bare name to be found in `PATH`.
    pub program: Raw,
    /// The words between the program and a task's arguments.
    pub args: Vec<String>,
    /// Where outputs go.
    pub output: OutputPolicy,
}

/// What to start, and the output path that is told to the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// For the runner.
    pub start: Start,
    /// The value of `--output`.
    pub output_path: String,
}

impl LaunchPlan {
    /// What to start for an offer.
    ///
    /// # Errors
    /// The task's output path is not allowed.
    pub fn launch(&self, offer: Offer) -> Result<Launch, OutputRefused> {
        let Offer { attempt, batch_id, args_before, output, args_after, env, log_limit, .. } = offer;
        let Offer { time_limit_ms, grace_ms, stop_after_cut_off_ms, .. } = offer;
        let dir = self.output.batch_dir(&batch_id, &attempt.batch.to_string());
        let Placement { dir, path } = self.output.place(dir, attempt.task.0, attempt.attempt.0, &output)?;
        let mut args: Vec<Raw> = self.args.iter().map(|word| word.as_str().into()).collect();
        args.extend(args_before.into_iter().map(Raw::from));
        args.extend(["--output".into(), Raw::from(path.as_str())]);
        args.extend(args_after.into_iter().map(Raw::from));

        // Ours come last: of two with one name, the last wins.
        let mut variables: Vec<_> = env.into_iter().filter(|(name, _)| may_be_set(name)).collect();
        variables.extend([
            ("MUSTER_BATCH_ID".into(), batch_id),
            ("MUSTER_TASK_INDEX".into(), attempt.task.to_string()),
            ("MUSTER_ATTEMPT".into(), attempt.attempt.to_string()),
            ("MUSTER_OUTPUT_DIR".into(), dir.to_string_lossy().into_owned()),
            ("BIZYAIR_DISABLE_RUNTIME_STATE".into(), "1".into()),
        ]);
        let start = Start {
            attempt: to_key(attempt),
            program: self.program.clone(),
            args,
            env: Env::new(variables),
            cwd: dir.as_path().into(),
            output_limit: log_limit,
            time_limit_ms,
            grace_ms,
            stop_after_cut_off_ms,
        };
        Ok(Launch { start, output_path: path })
    }
}

/// Whether an offer may set this variable: not those that choose what code runs, nor our own.
fn may_be_set(name: &str) -> bool {
    !name.is_empty()
        && !name.contains(['=', '\0'])
        && name != "PATH"
        && !name.starts_with("LD_")
        && !name.starts_with("MUSTER_")
}

/// As the runner writes it.
pub(super) fn to_key(id: AttemptId) -> AttemptKey {
    AttemptKey { life: id.life.0, batch: id.batch.get(), task: id.task.0, attempt: id.attempt.0 }
}

/// From the runner's way; `None` for what was never a coordinator's.
pub(super) fn from_key(key: AttemptKey) -> Option<AttemptId> {
    let AttemptKey { life, batch, task, attempt } = key;
    muster_proto::v1::Attempt { life, batch, task, attempt }.try_into().ok()
}
