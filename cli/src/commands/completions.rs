//! `muster completions`: completion in shells, of batch ids and worker names too.
//!
//! The script that it prints asks this program again at every TAB ([`answer`]). Ids come from the coordinator, if it
//! answers quickly; where it does not, there are none, and nothing is said.

use std::{ffi::OsStr, time::Duration};

use clap::{Args, CommandFactory as _, FromArgMatches as _, ValueEnum};
use clap_complete::{
    CompleteEnv,
    engine::{ArgValueCompleter, CompletionCandidate},
    env::Shells,
};
use muster_proto::v1::ListWorkersRequest;

use crate::{
    Context,
    args::{Cli, without_empty_variables},
    backoff::Patience,
    client::Client,
    commands::list::Batches,
    config,
    error::{Error, Exit},
    io::Io,
    output::words::{scheduler_word, worker_word},
    start::profile_of,
};

/// The variable by which the script asks, with the shell's name in it.
const VARIABLE: &str = "MUSTER_COMPLETE";
/// All that asking the coordinator may take.
const TIME_LIMIT: Duration = Duration::from_millis(500);
/// Ids that are offered at most, the newest.
const MAX_IDS: u32 = 100;
/// A longer name is none that a coordinator gives.
const MAX_ID_BYTES: usize = 200;

/// The shells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU bash
    Bash,
    /// Elvish
    Elvish,
    /// fish
    Fish,
    /// PowerShell
    #[value(name = "powershell")]
    PowerShell,
    /// zsh
    Zsh,
}

impl Shell {
    const fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Elvish => "elvish",
            Self::Fish => "fish",
            Self::PowerShell => "powershell",
            Self::Zsh => "zsh",
        }
    }
}

/// What `completions` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Load it where the shell starts, so that it is always that of the installed version. Batch ids
and worker names are asked of the coordinator while you type, for half a second at most.

Examples:
  echo 'source <(muster completions bash)' >> ~/.bashrc
  echo 'source <(muster completions zsh)' >> ~/.zshrc
  echo 'muster completions fish | source' >> ~/.config/fish/completions/muster.fish
  echo 'eval (muster completions elvish | slurp)' >> ~/.config/elvish/rc.elv
  muster completions powershell | Out-String | Invoke-Expression"
)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

/// Prints the script.
pub fn run(args: &CompletionsArgs, context: &Context) -> Result<Exit, Error> {
    let shells = Shells::builtins();
    let Some(shell) = shells.completer(args.shell.name()) else {
        return Err(Error::Usage(format!("there is no completion for {}", args.shell.name())));
    };
    let mut script = Vec::new();
    shell
        .write_registration(VARIABLE, "muster", "muster", &program(), &mut script)
        .map_err(Error::from_write)?;
    if args.shell == Shell::Zsh {
        script = with_compinit(&String::from_utf8_lossy(&script)).into_bytes();
    }
    context.io.write(&script)?;
    Ok(Exit::Completed)
}

/// The script for a zsh whose completion nobody has switched on yet, as a fresh one's is not: without it, `compdef`
/// is an unknown command there.
fn with_compinit(script: &str) -> String {
    script.replace(
        "\ncompdef ",
        "\n(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }\ncompdef ",
    )
}

/// How this program was started, so that the script finds it again: by name where the shell found it so.
fn program() -> String {
    let name = std::env::args().next().unwrap_or_default();
    match std::env::current_exe() {
        Ok(path) if name.contains('/') => path.display().to_string(),
        _ => "muster".to_owned(),
    }
}

/// Answers a shell that asks for completions; `None` where nobody does. Says nothing where something fails.
pub fn answer() -> Option<Exit> {
    let asked = CompleteEnv::with_factory(with_ids)
        .var(VARIABLE)
        .bin("muster")
        .try_complete(std::env::args_os(), std::env::current_dir().ok().as_deref());
    match asked {
        Ok(false) => None,
        Ok(true) => Some(Exit::Completed),
        Err(_) => Some(Exit::NotAllCompleted),
    }
}

/// The command line, with ids where a batch or a worker is meant.
fn with_ids() -> clap::Command {
    Cli::command().mut_subcommands(|command| {
        command.mut_args(|arg| match arg.get_id().as_str() {
            "batch" | "batches" if arg.is_positional() => arg.add(ArgValueCompleter::new(batches)),
            "worker" | "workers" if arg.is_positional() => arg.add(ArgValueCompleter::new(workers)),
            _ => arg,
        })
    })
}

fn batches(current: &OsStr) -> Vec<CompletionCandidate> {
    ask(current, async |client| {
        let page = Batches::new(client, MAX_IDS).next().await?.unwrap_or_default();
        let word = |status| scheduler_word(status).to_owned();
        Ok(page.into_iter().map(|batch| (word(batch.scheduler_status()), batch.batch_id)).collect())
    })
}

fn workers(current: &OsStr) -> Vec<CompletionCandidate> {
    ask(current, async |client| {
        let reply = client.call(client.fleet().list_workers(ListWorkersRequest {})).await?;
        let word = |status| worker_word(status).to_owned();
        let known = reply.workers.into_iter().take(MAX_IDS as usize);
        Ok(known.map(|worker| (word(worker.status()), worker.worker_id)).collect())
    })
}

/// What the coordinator of this command line answers in time, of it what begins as typed.
fn ask(
    current: &OsStr,
    question: impl AsyncFnOnce(&Client) -> Result<Vec<(String, String)>, Error>,
) -> Vec<CompletionCandidate> {
    let (Some(current), Some(url)) = (current.to_str(), coordinator()) else { return Vec::new() };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let silent = Io::new(Box::new(std::io::sink()), Box::new(std::io::sink()), false);
    let context = Context { io: silent, url, patience: Patience::default() };
    let found = runtime.block_on(async {
        let client = Client::new(&context).ok()?;
        tokio::time::timeout(TIME_LIMIT, question(&client)).await.ok()?.ok()
    });
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    found
        .unwrap_or_default()
        .into_iter()
        .filter(|(_, id)| id.starts_with(current) && is_plain(id))
        .map(|(status, id)| CompletionCandidate::new(id).help(Some(status.into())))
        .collect()
}

/// Whether an id may be handed to a shell: nothing in it means anything there.
fn is_plain(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b':' | b'@');
    !id.is_empty() && id.len() <= MAX_ID_BYTES && !id.starts_with('-') && id.bytes().all(plain)
}

/// The address that the words typed so far, the environment or a profile give.
fn coordinator() -> Option<String> {
    // This program's name, `--`, then the words.
    let words: Vec<_> = std::env::args_os().skip_while(|word| word != "--").skip(1).collect();
    let mut words = words.into_iter();
    // Only what says where: the rest is not finished.
    let mut settings = vec![words.next()?];
    while let Some(word) = words.next() {
        let text = word.to_string_lossy().into_owned();
        let (name, inline) = text.split_once('=').map_or((text.as_str(), false), |(name, _)| (name, true));
        if ["--coordinator", "--profile", "--config-file"].contains(&name) {
            settings.push(word);
            if !inline {
                settings.push(words.next()?);
            }
        }
    }
    // Any command without arguments.
    settings.push("limits".into());
    let command = without_empty_variables(Cli::command(), &|name| std::env::var_os(name));
    let matches = command.clone().try_get_matches_from(&settings).ok()?;
    let profile = profile_of(&Cli::from_arg_matches(&matches).ok()?).ok()?;
    let command = config::with_defaults(command, &profile);
    let cli = Cli::from_arg_matches(&command.try_get_matches_from(&settings).ok()?).ok()?;
    Some(cli.coordinator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_that_mean_nothing_to_a_shell_are_offered() {
        for id in ["b1", "20260101-120000-ab12", "worker-a.local:1"] {
            assert!(is_plain(id), "{id}");
        }
        for id in ["", "a b", "$(reboot)", "a;b", "a\nb", "-rf", "a'b", "万"] {
            assert!(!is_plain(id), "{id}");
        }
    }
}
