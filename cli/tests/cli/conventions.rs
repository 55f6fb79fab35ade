//! What all commands share: help, exit codes, errors of the command line, profiles, colour, pager, completion, manual.

use std::{
    fs::File,
    io::Read as _,
    path::Path,
    process::{Command, Output, Stdio},
    time::Instant,
};

use clap::CommandFactory as _;
use muster_cli::{args::Cli, error::Exit};
use muster_proto::v1::{Batch, TaskStatus, Worker};
use nix::{
    pty::{Winsize, openpty},
    sys::signal::Signal,
};

use crate::{
    support::{DEADLINE, Fake, batch, task},
    terminal::Terminal,
};

/// Nobody listens there.
const NOWHERE: &str = "http://127.0.0.1:1";

/// The program with nothing of the tester's own settings.
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    command.env_clear().env("MUSTER_COORDINATOR", NOWHERE).stdin(Stdio::null());
    command
}

fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// The names of every command that there is, those under others too.
fn commands() -> Vec<Vec<String>> {
    fn below(command: &clap::Command, path: &[String], found: &mut Vec<Vec<String>>) {
        found.push(path.to_vec());
        for command in command.get_subcommands() {
            below(command, &[path, &[command.get_name().to_owned()]].concat(), found);
        }
    }
    let mut found = Vec::new();
    below(&Cli::command(), &[], &mut found);
    found
}

fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[test]
fn help_of_every_command() {
    for path in commands() {
        let (code, help, said) = output(program().args(&path).arg("--help"));
        assert_eq!((code, said.as_str()), (Some(0), ""), "{path:?}");
        assert!(!help.contains(NOWHERE), "a variable's value in {path:?}");
        snapshot(&["help".to_owned()].iter().chain(&path).cloned().collect::<Vec<_>>().join("-"), &help);
    }
}

#[test]
fn help_of_every_command_has_examples_that_are_command_lines() {
    for path in commands() {
        let (_, help, _) = output(program().args(&path).arg("--help"));
        let (_, examples) =
            help.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{path:?} has none:\n{help}"));
        let examples = examples.split("\n\n").next().unwrap();
        assert!(examples.lines().all(|line| line.contains("muster ")), "{path:?}: {examples}");
    }
}

#[test]
fn exit_codes_are_the_same_in_help_in_the_documentation_and_in_the_program() {
    let (_, help, _) = output(program().arg("--help"));
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/flags.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    for exit in Exit::ALL {
        let (code, meaning) = (exit.code(), exit.meaning());
        assert!(help.contains(&format!("\n  {code:<5}{meaning}\n")), "{code} in:\n{help}");
        assert!(docs.contains(&format!("\n| {code} | {meaning} |\n")), "{code} in docs/flags.md");
    }
    let (_, table) = help.split_once("Exit codes:\n").unwrap();
    let listed = table.lines().take_while(|line| line.starts_with("  ")).count();
    assert_eq!(listed, Exit::ALL.len());
}

#[test]
fn what_is_wrong_with_a_command_line_is_said_with_the_way_out() {
    let lines: &[(&str, &[&str])] = &[
        ("nothing", &[]),
        ("unknown-command", &["submt"]),
        ("unknown-option", &["list", "--limt", "3"]),
        ("missing-batch", &["status"]),
        ("task-zero", &["cancel", "b1", "0"]),
        ("unknown-format", &["list", "--output", "tabel"]),
        ("unknown-shell", &["completions", "tcsh"]),
        ("no-coordinator", &["limits"]),
        ("bad-address", &["--coordinator", "ftp://h", "limits"]),
        ("seed-json-of-workers", &["workers", "--output", "seed-json"]),
        ("no-such-profile", &["--config-file", "no/such/file", "limits"]),
    ];
    for (name, line) in lines {
        let (code, out, said) = output(program().args(*line));
        let expected = if *name == "no-coordinator" { 3 } else { 2 };
        assert_eq!((code, out.as_str()), (Some(expected), ""), "{name}: {said}");
        snapshot(&format!("error-{name}"), &said);
    }
}

#[test]
fn a_reader_of_help_that_goes_away_is_no_error() {
    for line in [&["--help"][..], &["man"], &["completions", "bash"], &["config", "show"]] {
        let mut child = program().args(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{line:?}");
    }
}

/// A home with a file of profiles in it.
fn home(text: &str) -> (tempfile::TempDir, Command) {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".config/muster");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.toml"), text).unwrap();
    let mut command = program();
    command.env_remove("MUSTER_COORDINATOR").env("HOME", home.path());
    (home, command)
}

#[test]
fn settings_come_from_flag_environment_profile_and_built_in_in_that_order() {
    let text = "default-profile = \"work\"\n\n[profile.work]\ncoordinator = \"http://profile:1\"\n\
                api-key-file = \"~/key\"\nlang = \"zh\"\n\n[profile.other]\noutput = \"jsonl\"\n";
    let (home, mut command) = home(text);
    // The width of columns is that of this path.
    let squeezed = |line: &str| {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>().join("  ")
    };
    let shown = |printed: &str| printed.replace(&home.path().display().to_string(), "HOME");
    command.env("MUSTER_LANG", "en").env("MUSTER_SLOTS", "3");
    let (code, table, said) = output(command.args(["--color", "never", "config", "show"]));
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let table: Vec<String> = shown(&table).lines().map(squeezed).collect();
    snapshot("config-show", &table.join("\n"));
    let (_, document, _) = output(command.args(["--output", "json"]));
    snapshot("config-show-json", &shown(&document));
    let mut other = program();
    other.env("HOME", home.path()).args(["--profile", "other", "config", "show"]);
    let (_, lines, _) = output(&mut other);
    let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(first["source"], "environment");
    assert_eq!(first["variable"], "MUSTER_COORDINATOR");
}

#[test]
fn a_profile_says_where_the_coordinator_is_and_how_to_print() {
    let fake = Fake::start();
    *fake.state.batch.lock().unwrap() = batch(2, 1, 1);
    let text = format!("[profile.default]\ncoordinator = \"{}\"\noutput = \"jsonl\"\n", fake.url());
    let (_home, mut command) = home(&text);
    let (code, out, said) = output(command.arg("list"));
    assert_eq!(code, Some(0), "{said}");
    assert!(out.starts_with('{') && out.contains("\"batch_id\":\"b1\""), "{out}");
    let (_, out, _) = output(command.args(["--output", "table"]));
    assert!(out.starts_with("BATCH "), "{out}");
}

#[test]
fn a_broken_file_is_an_error_with_its_place_and_nothing_is_sent() {
    let (home, mut command) = home("[profile.work]\ncoordinater = \"http://h:1\"\n");
    let (code, out, said) = output(command.args(["submit", "-"]));
    let path = home.path().join(".config/muster/config.toml").display().to_string();
    assert_eq!((code, out.as_str()), (Some(2), ""));
    let problem = "2:1: profile.work.coordinater: unknown key; did you mean coordinator?";
    assert_eq!(said, format!("error: {path}:{problem}\n"));
}

#[test]
fn a_key_in_the_environment_beats_the_file_that_a_profile_names() {
    let fake = Fake::start();
    let text = format!("[profile.default]\ncoordinator = \"{}\"\napi-key-file = \"key\"\n", fake.url());
    let (home, _) = home(&text);
    std::fs::write(home.path().join(".config/muster/key"), "sk-file\n").unwrap();
    std::fs::write(home.path().join("batch.json"), "[\"a cat\"]").unwrap();
    for (variable, expected) in [("sk-variable", "sk-variable"), ("", "sk-file")] {
        fake.state.submits.lock().unwrap().push_back(Ok(batch(1, 0, 0)));
        let mut command = program();
        command.env_remove("MUSTER_COORDINATOR").env("HOME", home.path()).current_dir(home.path());
        let (code, _, said) = output(command.env("BIZYAIR_API_KEY", variable).args(["submit", "batch.json"]));
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(fake.state.seen_submits.lock().unwrap().pop().unwrap().api_key, expected);
    }
}

#[test]
fn colour_of_help_follows_the_flag_and_the_environment() {
    let escape = |command: &mut Command| output(command).1.contains('\u{1b}');
    assert!(!escape(program().arg("--help")));
    assert!(escape(program().args(["--color", "always", "--help"])));
    assert!(escape(program().args(["list", "--color=always", "--help"])));
    assert!(escape(program().env("CLICOLOR_FORCE", "1").arg("--help")));
    assert!(!escape(program().env("CLICOLOR_FORCE", "1").args(["--color", "never", "--help"])));
    assert!(!escape(program().env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1").arg("--help")));
}

/// What a program shows on a terminal of ten rows, and how it ends.
fn on_terminal(mut command: Command) -> (Option<i32>, String) {
    let size = Winsize { ws_row: 10, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(&size, None).unwrap();
    let stdio = || Stdio::from(pty.slave.try_clone().unwrap());
    command.env("TERM", "xterm").stdin(stdio()).stdout(stdio()).stderr(stdio());
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut master = File::from(pty.master);
    drop(pty.slave);
    let reader = std::thread::spawn(move || {
        let mut shown = Vec::new();
        // Ends with an error once nobody holds the other end.
        let _ = master.read_to_end(&mut shown);
        shown
    });
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < DEADLINE, "the program does not end");
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    (status.code(), String::from_utf8_lossy(&reader.join().unwrap()).replace("\r\n", "\n"))
}

/// A pager that can be told from no pager.
const PAGER: &str = "sed s/^/paged:/";

fn paged(fake: &Fake, pager: &str, line: &[&str]) -> (Option<i32>, String) {
    let mut command = program();
    command.env("MUSTER_COORDINATOR", fake.url()).env("MUSTER_PAGER", pager).env("PATH", "/usr/bin:/bin");
    command.args(line);
    on_terminal(command)
}

fn with_tasks(count: i32) -> Fake {
    let fake = Fake::start();
    let tasks = (1..=count).map(|index| task(index, TaskStatus::Completed)).collect();
    *fake.state.batch.lock().unwrap() = Batch { tasks, ..batch(count, count, 0) };
    fake
}

#[test]
fn a_table_longer_than_the_screen_goes_to_the_pager_and_a_short_one_does_not() {
    let fake = with_tasks(30);
    let (code, shown) = paged(&fake, PAGER, &["status", "b1"]);
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.lines().all(|line| line.starts_with("paged:")), "{shown}");
    assert!(shown.contains("paged:30 "), "{shown}");
    for line in [&["status", "b1", "--no-pager"][..], &["status", "b1", "--output", "jsonl"], &["list"]] {
        let (code, shown) = paged(&fake, PAGER, line);
        assert_eq!(code, Some(0), "{shown}");
        assert!(
            !shown.contains("paged:") && (shown.contains("b1") || shown.contains("Task 30")),
            "{line:?}: {shown}"
        );
    }
    for none in ["", "cat", "no-such-program-anywhere"] {
        let (code, shown) = paged(&fake, none, &["status", "b1"]);
        assert!(code == Some(0) && shown.contains("\n30 "), "{none}: {shown}");
    }
}

#[test]
fn what_is_said_comes_after_the_pager() {
    let fake = Fake::start();
    let worker = |index| Worker { worker_id: format!("worker-{index}"), ..Worker::default() };
    *fake.state.workers.lock().unwrap() = (0..30).map(worker).collect();
    let (_, shown) = paged(&fake, PAGER, &["workers"]);
    assert!(shown.contains("paged:worker-29"), "{shown}");
    let tasks = (1..=30).map(|index| task(index, TaskStatus::Queued)).collect();
    *fake.state.batch.lock().unwrap() = Batch { tasks, available_workers: 0, ..batch(30, 0, 0) };
    let (_, shown) = paged(&fake, PAGER, &["status", "b1"]);
    let last = shown.lines().last().unwrap();
    assert!(last.contains("muster-worker") && !last.contains("paged:"), "{shown}");
}

#[test]
fn a_pager_that_is_quit_early_is_no_error() {
    let fake = with_tasks(30_000);
    let (code, shown) = paged(&fake, "head -n 2", &["status", "b1"]);
    assert_eq!((code, shown.lines().count()), (Some(0), 2), "{shown}");
}

#[test]
fn ending_the_program_ends_its_pager() {
    let fake = with_tasks(30);
    let mut command = program();
    command.env("MUSTER_COORDINATOR", fake.url()).env("PATH", "/usr/bin:/bin").env("TERM", "xterm");
    // Reads nothing and would wait for ever.
    command.env("MUSTER_PAGER", "sh -c 'echo shown; exec tail -f /dev/null'");
    let terminal = Terminal::new(10, 100);
    let mut run = terminal.spawn(command.args(["status", "b1"]));
    terminal.wait_for_text("shown");
    run.signal(Signal::SIGTERM);
    assert_eq!(run.code(), Some(130));
    terminal.wait_for_text("interrupted");
}

#[test]
fn off_a_terminal_there_is_never_a_pager() {
    let fake = with_tasks(30);
    let mut command = program();
    command.env("MUSTER_COORDINATOR", fake.url()).env("MUSTER_PAGER", PAGER).env("PATH", "/usr/bin:/bin");
    let (code, out, _) = output(command.env("TERM", "xterm").args(["status", "b1"]));
    assert!(code == Some(0) && !out.contains("paged:"), "{out}");
}

#[test]
fn every_shell_has_a_script_that_asks_this_program() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, script, said) = output(program().args(["completions", shell]));
        assert_eq!((code, said.as_str()), (Some(0), ""), "{shell}");
        assert!(
            script.contains("MUSTER_COMPLETE") && script.contains(env!("CARGO_BIN_EXE_muster")),
            "{script}"
        );
    }
}

/// What bash offers for the last of these words.
fn completed(coordinator: &str, words: &[&str]) -> String {
    let script = "source <(\"$0\" completions bash); COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
                  _clap_complete_muster muster \"${COMP_WORDS[COMP_CWORD]}\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let mut command = Command::new("bash");
    command.env_clear().env("MUSTER_COORDINATOR", coordinator).env("PATH", "/usr/bin:/bin");
    command.args(["--norc", "-c", script, env!("CARGO_BIN_EXE_muster")]).args(words);
    let (code, out, said) = output(&mut command);
    assert_eq!((code, said.as_str()), (Some(0), ""), "{words:?}");
    out
}

#[test]
fn bash_completes_commands_options_and_ids_that_the_coordinator_knows() {
    let fake = with_tasks(1);
    let worker = |name: &str| Worker { worker_id: name.to_owned(), ..Worker::default() };
    *fake.state.workers.lock().unwrap() = vec![worker("gpu-1"), worker("$(reboot)")];
    assert_eq!(completed(NOWHERE, &["muster", "compl"]).trim(), "completions");
    assert!(completed(NOWHERE, &["muster", "list", "--out"]).contains("--output"));
    let ids = |url: &str, words: &[&str]| completed(url, words).split_whitespace().any(|word| word == "b1");
    assert!(ids(&fake.url(), &["muster", "status", ""]));
    assert!(ids(NOWHERE, &["muster", "--coordinator", &fake.url(), "cancel", "b"]));
    assert!(!ids(&fake.url(), &["muster", "status", "c"]));
    let workers = completed(&fake.url(), &["muster", "drain", ""]);
    assert!(workers.contains("gpu-1") && !workers.contains("reboot"), "{workers}");
}

/// Runs a script in a shell with nothing set up in it; `None` where there is no such shell.
fn in_fresh(shell: &str, coordinator: &str, arguments: &[&str]) -> Option<(Option<i32>, String, String)> {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(shell);
    command.env_clear().env("MUSTER_COORDINATOR", coordinator).env("PATH", "/usr/bin:/bin");
    command.env("HOME", home.path()).env("TERM", "xterm").args(arguments).stdin(Stdio::null());
    match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        done => {
            let Output { status, stdout, stderr } = done.unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            Some((status.code(), text(stdout), text(stderr)))
        }
    }
}

#[test]
fn fish_completes_the_same() {
    let fake = with_tasks(1);
    for (typed, offered) in [("muster compl", "completions\t"), ("muster status b", "b1\t")] {
        let program = env!("CARGO_BIN_EXE_muster");
        let script = format!("{program} completions fish | source; complete -C '{typed}'");
        let Some((code, out, said)) = in_fresh("fish", &fake.url(), &["-c", &script]) else { return };
        assert_eq!((code, said.as_str()), (Some(0), ""));
        assert!(out.starts_with(offered), "{typed}: {out}");
    }
}

#[test]
fn a_zsh_without_completion_gets_it_switched_on() {
    let script = "source <($0 completions zsh) && print $_comps[muster]";
    let arguments = ["-f", "-c", script, env!("CARGO_BIN_EXE_muster")];
    let Some((code, out, said)) = in_fresh("zsh", NOWHERE, &arguments) else { return };
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert_eq!(out, "_clap_dynamic_completer_muster\n");
}

#[test]
fn a_coordinator_that_is_away_or_never_answers_completes_to_nothing_and_says_nothing() {
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mute_url = format!("http://{}", mute.local_addr().unwrap());
    for url in [NOWHERE, mute_url.as_str(), "nonsense://"] {
        let offered = completed(url, &["muster", "drain", "gp"]);
        assert_eq!(offered.trim(), "", "{url}");
    }
}

#[test]
fn the_manual_has_a_page_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, said) = output(program().arg("man").arg(dir.path()));
    assert_eq!((code, out.as_str()), (Some(0), ""));
    for path in commands() {
        let name = ["muster".to_owned()].iter().chain(&path).cloned().collect::<Vec<_>>().join("-");
        let page = std::fs::read_to_string(dir.path().join(format!("{name}.1"))).unwrap();
        assert!(page.contains(".SH NAME") && page.contains("Examples:"), "{name}");
    }
    let count = std::fs::read_dir(dir.path()).unwrap().count();
    assert!(said.starts_with(&format!("{count} pages in ")), "{said}");
    let (_, page, _) = output(program().arg("man"));
    assert!(
        page.contains(".TH muster 1")
            && page.contains("MUSTER_COORDINATOR")
            && page.contains("130  interrupted"),
        "{page}"
    );
}

#[test]
fn a_variable_that_is_set_to_nothing_is_not_set() {
    let mut command = program();
    for argument in Cli::command().get_subcommands().flat_map(clap::Command::get_arguments) {
        if let Some(name) = argument.get_env() {
            command.env(name, "");
        }
    }
    for name in
        ["MUSTER_COORDINATOR", "MUSTER_PROFILE", "MUSTER_CONFIG_FILE", "MUSTER_COLOR", "MUSTER_NO_PAGER"]
    {
        command.env(name, "");
    }
    let (code, out, err) = output(command.args(["config", "show"]));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("http://127.0.0.1:7070") && !out.contains("environment"), "{out}");
    let mut command = program();
    command.env("MUSTER_COORDINATOR", "").env("MUSTER_SLOTS", "").env("MUSTER_OUTPUT", "");
    let (code, _, err) = output(command.args(["run", "--dispatch", "no-such-program", "a prompt"]));
    assert_eq!(code, Some(2));
    assert!(err.starts_with("error: --dispatch"), "{err}");
}
