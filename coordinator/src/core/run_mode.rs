//! How the program is to run a task.

use serde::{Deserialize, Serialize};

/// How the program is to run a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunMode {
    /// With what the model's defaults say where the task says nothing.
    RunWithDefaults,
    /// As the task says.
    #[default]
    ConfirmRun,
}

impl RunMode {
    /// The word for it in a status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RunWithDefaults => "run_with_defaults",
            Self::ConfirmRun => "confirm_run",
        }
    }
}
