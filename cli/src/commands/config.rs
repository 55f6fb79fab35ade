//! `muster config`: settings, and where each came from.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    Context,
    args::OutputArgs,
    config::{Setting, Source},
    error::{Error, Exit},
    output::{Format, print_document, print_line, table::Table},
};

/// What `config` takes.
#[derive(Debug, Args)]
#[command(after_help = "Settings that you do not want to repeat stand in profiles, in the file
$XDG_CONFIG_HOME/muster/config.toml (else ~/.config/muster/config.toml):

  default-profile = \"work\"

  [profile.work]
  coordinator = \"http://gpu-1:7070\"
  api-key-file = \"~/.config/muster/key\"
  output = \"table\"                     table, json, jsonl, seed-json or none
  color = \"auto\"                       auto, always or never
  lang = \"en\"                          en or zh

Approvals and keys are not taken from it.

Examples:
  muster config show
  muster --profile work config show --output json")]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// One of the commands.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show every setting, its value and where that came from
    #[command(after_help = "Order: flag, environment, profile, built-in.

Examples:
  muster config show
  muster --profile work config show
  muster config show --output jsonl | jq -r 'select(.source != \"built-in\") | .name'")]
    Show(ShowArgs),
}

/// What `config show` takes.
#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    /// How to print.
    pub output: OutputArgs,
}

/// Shows the settings.
pub fn run(args: &ConfigArgs, context: &Context) -> Result<Exit, Error> {
    let ConfigCommand::Show(args) = &args.command;
    let io = &context.io;
    let settings = &io.surroundings().settings;
    match args.output.format().without_seed("settings")? {
        Format::Json => {
            let settings: Vec<Value> = settings.iter().map(document).collect();
            print_document(io, &json!({ "settings": settings }))?;
        }
        Format::Jsonl => settings.iter().try_for_each(|setting| print_line(io, &document(setting)))?,
        Format::Table | Format::SeedJson => {
            let row = |setting: &Setting| {
                let value = setting.value.clone().unwrap_or_else(|| "-".to_owned());
                vec![setting.name.clone(), setting.source.to_string(), value]
            };
            let mut table = Table::new(&["SETTING", "FROM", "VALUE"]);
            io.write(table.rows(settings.iter().map(row).collect()).as_bytes())?;
        }
    }
    Ok(Exit::Completed)
}

fn document(setting: &Setting) -> Value {
    let mut document =
        json!({ "name": setting.name, "value": setting.value, "source": setting.source.word() });
    match &setting.source {
        Source::Environment(variable) => document["variable"] = json!(variable),
        Source::Profile { name, file } => {
            document["profile"] = json!(name);
            document["file"] = json!(file);
        }
        Source::Flag | Source::BuiltIn => {}
    }
    document
}
