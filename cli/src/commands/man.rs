//! `muster man`: the manual, made of the command line itself.

use std::path::{Path, PathBuf};

use clap::Args;
use clap_mangen::Man;

use crate::{
    Context,
    args::command,
    error::{Error, Exit},
    sanitize::one_line,
};

/// What `man` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster man | man -l -                            read it
  muster man ~/.local/share/man/man1               a page for each command: man muster-submit")]
pub struct ManArgs {
    /// Folder to write a page for each command into [default: print the first page]
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Prints or writes the pages.
pub fn run(args: &ManArgs, context: &Context) -> Result<Exit, Error> {
    let io = &context.io;
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        Man::new(command()).render(&mut page).map_err(Error::from_write)?;
        io.write(&page)?;
        return Ok(Exit::Completed);
    };
    let shown = one_line(&dir.display().to_string());
    let failed = |source| Error::Write { what: shown.clone(), source };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let mut command = command().disable_help_subcommand(true);
    command.build();
    let count = write(command, dir).map_err(failed)?;
    io.say(&format!("{count} pages in {shown}"));
    Ok(Exit::Completed)
}

/// Writes the page of a command and those of the commands under it.
fn write(command: clap::Command, dir: &Path) -> std::io::Result<usize> {
    let mut count = 1;
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        count += write(command.clone(), dir)?;
    }
    Man::new(command).generate_to(dir)?;
    Ok(count)
}
