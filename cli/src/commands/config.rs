//! `muster config`: settings, and where each came from.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use unicode_width::UnicodeWidthStr as _;

use crate::{
    Context,
    args::OutputArgs,
    config::{Setting, Source},
    error::{Error, Exit},
    output::{Format, print_document, print_line},
    sanitize::one_line,
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
            io.write(table(settings).as_bytes())?;
        }
    }
    Ok(Exit::Completed)
}

/// Columns in which nothing is cut: half an address or half a path is none.
fn table(settings: &[Setting]) -> String {
    let mut rows = vec![["SETTING", "VALUE", "FROM"].map(str::to_owned)];
    for setting in settings {
        let value = setting.value.as_deref().unwrap_or("-");
        rows.push([one_line(&setting.name), one_line(value), one_line(&setting.source.to_string())]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].width()).max().unwrap_or_default();
    let widths = [width(0), width(1)];
    let padded = |cell: &str, width: usize| format!("{cell}{}", " ".repeat(width - cell.width()));
    rows.iter()
        .map(|[name, value, from]| {
            format!("{}  {}  {from}\n", padded(name, widths[0]), padded(value, widths[1]))
        })
        .collect()
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
