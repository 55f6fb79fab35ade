//! One task's output: as it is, or its exact bytes. On a terminal the line that has not ended is shown as it
//! grows, so that a progress bar moves.

use crate::{
    client::Client,
    commands::logs::{Job, LogsArgs, discarded, format::Formatter, since::Since},
    error::Error,
};

/// Of a line that has not ended, so many characters are shown.
const MAX_OPEN_LINE: usize = 500;
/// Draws the line anew. What is too wide is cut by the terminal, so that one line is one row.
const ERASE: &str = "\r\u{1b}[K";
const NO_WRAP: &str = "\u{1b}[?7l";
const WRAP: &str = "\u{1b}[0m\u{1b}[?7h";

/// Shows it to the end.
pub(super) async fn show(client: &Client, args: &LogsArgs, job: &Job) -> Result<(), Error> {
    let io = &client.context().io;
    let mut tail = job.open(client, args).await?;
    let live = io.out_is_terminal() && args.follow && args.grep.is_none();
    let mut style = job.style(client, args, false);
    if live {
        style = style.with_own_lines();
    }
    let mut formatter = Formatter::new(style);
    let mut open = OpenLine::default();
    let mut anything = args.tail.is_some() || args.offset.is_some_and(|offset| offset > 0);
    while let Some(piece) = tail.next().await? {
        anything |= !piece.bytes.is_empty();
        if args.raw {
            io.write(&piece.bytes)?;
        } else {
            let mut text = formatter.push(&piece.bytes);
            if live {
                text = open.draw(&text, formatter.open());
            }
            if !text.is_empty() {
                io.write(text.as_bytes())?;
            }
        }
        if piece.discarded > 0 {
            io.say(&discarded(job.index, piece.discarded));
        }
    }
    if !args.raw {
        let rest = formatter.finish();
        io.write(open.draw(&rest, "").as_bytes())?;
    }
    if !anything {
        let since = match args.since {
            Some(Since::At(time)) => format!(" since {time:.0}"),
            Some(Since::Ago(_)) | None => String::new(),
        };
        io.say(&format!("task {} has printed nothing{since}", job.index));
    }
    Ok(())
}

/// The line at the bottom that has not ended.
#[derive(Default)]
struct OpenLine {
    shown: bool,
}

impl OpenLine {
    /// What to write so that `text` (whole lines) stands where the open line was, and the open line below it.
    fn draw(&mut self, text: &str, open: &str) -> String {
        let mut out = String::new();
        if std::mem::take(&mut self.shown) {
            out.push_str(ERASE);
        }
        out.push_str(text);
        if !open.is_empty() {
            self.shown = true;
            out.push_str(NO_WRAP);
            out.extend(open.chars().take(MAX_OPEN_LINE));
            out.push_str(WRAP);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_line_is_drawn_in_place_and_gives_way_to_whole_ones() {
        let mut terminal = vt100::Parser::new(4.try_into().unwrap(), 20.try_into().unwrap(), 0);
        let mut open = OpenLine::default();
        for (text, line) in [("one\n", "10%"), ("", "20%"), ("", "5%"), ("done\n", ""), ("", "x")] {
            terminal.process(open.draw(text, line).replace('\n', "\r\n").as_bytes());
        }
        assert_eq!(terminal.screen().contents(), "one\ndone\nx");
    }
}
