//! `muster wait`: waits until batches have ended, and says how by its exit code alone.

use std::time::Duration;

use clap::Args;

use crate::{
    Context,
    client::Client,
    error::{Error, Exit},
    follow::Follower,
    progress::{all_completed, command},
    sanitize::one_line,
};

/// What `wait` takes.
#[derive(Debug, Args)]
#[command(after_help = "Prints nothing, and goes on by itself when the coordinator is restarted.

Examples:
  muster wait BATCH && echo all done
  muster wait BATCH OTHER --timeout 2h

Exit codes: 0 all tasks of all batches completed; 1 some did not, or not within --timeout (it says
which).")]
pub struct WaitArgs {
    /// The batches
    #[arg(required = true, value_name = "BATCH")]
    pub batches: Vec<String>,
    /// Wait no longer than this, such as 90s, 10m, 1h30m [default: until they have ended]
    #[arg(long, env = "MUSTER_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
}

/// Waits.
pub async fn run(args: WaitArgs, context: &Context) -> Result<Exit, Error> {
    let client = Client::new(context)?;
    // A name that is wrong is no reason to wait for the others first.
    for batch in &args.batches {
        client.batch(batch).await?;
    }
    let mut ended = 0;
    let all = wait_for_all(&client, &args.batches, &mut ended);
    let Some(timeout) = args.timeout else { return all.await };
    if let Ok(outcome) = tokio::time::timeout(timeout, all).await {
        return outcome;
    }
    let left = args.batches.get(ended..).unwrap_or_default();
    let again = command(&context.url, &format!("wait {}", left.join(" ")));
    context.io.say(&format!(
        "batch {} has not ended within the time given; it goes on; wait for it again with: {}",
        one_line(left.first().map_or("", String::as_str)),
        one_line(&again)
    ));
    Ok(Exit::NotAllCompleted)
}

/// `ended`: how many of them have.
async fn wait_for_all(client: &Client, batches: &[String], ended: &mut usize) -> Result<Exit, Error> {
    let mut exit = Exit::Completed;
    // One after the other: they end when they end.
    for batch_id in batches {
        let mut follower = Follower::new(client, batch_id, true);
        let mut completed = false;
        while let Some(message) = follower.next().await? {
            if let Some(batch) = &message.batch {
                completed = all_completed(batch);
            }
        }
        if !completed {
            exit = Exit::NotAllCompleted;
        }
        *ended += 1;
    }
    Ok(exit)
}

/// Reads a duration for clap.
fn duration(text: &str) -> Result<Duration, String> {
    let way_out = "not a duration such as 90s, 10m or 1h30m";
    let duration: jiff::SignedDuration = text.parse().map_err(|_| way_out.to_owned())?;
    Duration::try_from(duration).map_err(|_| way_out.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_people_write_them() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "90", "soon", "-5m"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
