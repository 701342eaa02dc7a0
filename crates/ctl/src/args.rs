//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::{ArgGroup, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, value_parser};
use holdfast_message::{ChatId, UserId};

use crate::output::legible;
use crate::time::{parse_length, parse_since};

const EXIT_CODES: &str = "\
Exit codes:
  0  done, nothing wrong
  1  something is wrong, or was left undone; the output says what
  2  the command line or a setting can't be used; nothing was done
  3  a server could not be reached; what was done before that is done

Settings are the services' own: environment variables, or the file that CONFIG_FILE names.";

/// The operator's command line of Holdfast.
#[derive(Debug, Parser)]
#[command(name = "holdfastctl", version)]
pub struct Args {
    /// Print one JSON object a line
    #[arg(long, global = true)]
    pub json: bool,
    /// Log more than warnings
    #[arg(long, short, global = true)]
    pub verbose: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Args {
    /// Reads the process's command line. Ends the process when help was asked for, or when the command line can't be read.
    pub fn from_process() -> Self {
        let matches = with_exit_codes(Self::command()).try_get_matches();
        let args = matches.and_then(|matches| Self::from_arg_matches(&matches));
        args.unwrap_or_else(|error| legibly(error).exit())
    }
}

/// Says at the end of every command's help what its exit code means.
fn with_exit_codes(command: clap::Command) -> clap::Command {
    command.after_help(EXIT_CODES).mut_subcommands(with_exit_codes)
}

/// Repeats what was typed in a form that a terminal may be shown.
fn legibly(mut error: clap::Error) -> clap::Error {
    for kind in [ContextKind::InvalidValue, ContextKind::InvalidArg, ContextKind::InvalidSubcommand] {
        if let Some(ContextValue::String(typed)) = error.get(kind) {
            let shown = ContextValue::String(legible(typed));
            error.insert(kind, shown);
        }
    }
    error
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The failed queue: messages that Kafka did not take
    #[command(subcommand)]
    Failed(FailedCommand),
    /// The dead-letter topic: records that can't be stored
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// The cache: copies of stored values for faster reads
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Both topics
    #[command(subcommand)]
    Topics(TopicsCommand),
    /// How far the workers are behind, for each partition
    Lag,
    /// Compare what Kafka had, or a file of ids, with MongoDB
    Verify(VerifyArgs),
    /// Check every setting that the promise rests on
    Doctor,
    /// Sign a user's token with JWT_SECRET
    Token {
        /// The user
        #[arg(value_parser = user)]
        user: UserId,
        /// How long it is valid
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_length)]
        expires: Duration,
    },
    /// Close a user's sockets on every gateway
    Disconnect {
        /// The user
        #[arg(value_parser = user)]
        user: UserId,
        /// Only say how many gateways would hear it
        #[arg(long)]
        dry_run: bool,
    },
}

/// The failed queue.
#[derive(Debug, Subcommand)]
pub enum FailedCommand {
    /// Chats with waiting or dead entries
    List,
    /// A chat's entries
    Show(FailedShow),
    /// Publish entries to Kafka now, as the retry service does
    Replay(FailedReplay),
    /// Entries as JSON lines, with their bytes in base64 (which hold the content too)
    Export(FailedExport),
}

/// `failed show`.
#[derive(Debug, Clone, clap::Args)]
pub struct FailedShow {
    /// The chat
    #[arg(value_parser = chat)]
    pub chat: ChatId,
    /// The dead list instead of the queue
    #[arg(long)]
    pub dead: bool,
    /// At most so many
    #[arg(long, default_value_t = 100)]
    pub limit: usize,
}

/// `failed replay`.
#[derive(Debug, Clone, clap::Args)]
#[command(group = ArgGroup::new("which").required(true).args(["chats", "all"]))]
pub struct FailedReplay {
    /// The chats
    #[arg(value_name = "CHAT", value_parser = chat)]
    pub chats: Vec<ChatId>,
    /// Every chat
    #[arg(long)]
    pub all: bool,
    /// The dead lists instead of the queues, after what made them dead was mended
    #[arg(long)]
    pub dead: bool,
    /// Change nothing, say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Don't ask
    #[arg(long, short)]
    pub yes: bool,
}

/// `failed export`.
#[derive(Debug, Clone, clap::Args)]
pub struct FailedExport {
    /// The chats; all if none
    #[arg(value_name = "CHAT", value_parser = chat)]
    pub chats: Vec<ChatId>,
    /// The dead lists instead of the queues
    #[arg(long)]
    pub dead: bool,
    /// Decode content and image too
    #[arg(long)]
    pub with_content: bool,
}

/// Which dead letters.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DlqFilter {
    /// Only those whose reason holds this text
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Only those written since then: 2h, 3days, 2026-11-21T10:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    pub since: Option<i64>,
    /// Only this partition of the dead-letter topic
    #[arg(long)]
    pub partition: Option<i32>,
    /// Only this offset
    #[arg(long, requires = "partition")]
    pub offset: Option<i64>,
    /// At most so many
    #[arg(long)]
    pub limit: Option<usize>,
}

/// The dead-letter topic.
#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// Dead letters, one line each
    List(DlqFilter),
    /// Dead letters, all that is known of each
    Show(DlqShow),
    /// Publish dead letters to the topic they came from, but for those that MongoDB has
    Replay(DlqReplay),
}

/// `dlq show`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DlqShow {
    /// Which.
    #[command(flatten)]
    pub filter: DlqFilter,
    /// The record's bytes in base64, and the decoded content
    #[arg(long)]
    pub with_content: bool,
}

/// `dlq replay`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DlqReplay {
    /// Which.
    #[command(flatten)]
    pub filter: DlqFilter,
    /// Also those that can't be decoded
    #[arg(long)]
    pub force: bool,
    /// Change nothing, say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Don't ask
    #[arg(long, short)]
    pub yes: bool,
}

/// The cache.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// About how many keys of each kind there are: one that is met twice, as may happen while the cache grows, counts twice
    Stats {
        /// Count so many keys at most
        #[arg(long, default_value_t = 1_000_000, value_parser = value_parser!(u64).range(1..))]
        limit: u64,
    },
    /// Load profiles before they are asked for
    Warm(CacheWarm),
    /// Forget cached values, in Redis and in every gateway's memory
    Invalidate(CacheInvalidate),
}

/// `cache warm`.
#[derive(Debug, Clone, clap::Args)]
#[command(group = ArgGroup::new("whose").required(true).multiple(true).args(["users", "active"]))]
pub struct CacheWarm {
    /// The users
    #[arg(value_name = "USER", value_parser = user)]
    pub users: Vec<UserId>,
    /// Those who sent the last so many stored messages
    #[arg(long, value_name = "MESSAGES", value_parser = value_parser!(u32).range(1..))]
    pub active: Option<u32>,
    /// Change nothing, say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// `cache invalidate`.
#[derive(Debug, Clone, clap::Args)]
#[command(group = ArgGroup::new("which").required(true).args(["keys", "pattern"]))]
pub struct CacheInvalidate {
    /// The keys, as chat:v1:profile:user:{alice}
    #[arg(value_name = "KEY")]
    pub keys: Vec<String>,
    /// Every cached value whose key matches, as 'chat:v1:profile:*'
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub pattern: Option<String>,
    /// With a pattern: forget so many at most
    #[arg(long, default_value_t = 100_000, value_parser = value_parser!(u64).range(1..))]
    pub limit: u64,
    /// Change nothing, say what would be done: with a pattern about how many would be forgotten
    #[arg(long)]
    pub dry_run: bool,
    /// Don't ask
    #[arg(long, short)]
    pub yes: bool,
}

/// Both topics.
#[derive(Debug, Clone, Subcommand)]
pub enum TopicsCommand {
    /// Create those that are missing
    Create {
        /// Change nothing, say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// List what differs from what it should be
    Check,
}

/// `verify`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct VerifyArgs {
    /// A file of message ids, one a line, instead of a part of the topic
    #[arg(long, value_name = "FILE", conflicts_with_all = ["since", "partition", "from", "to"])]
    pub ids: Option<PathBuf>,
    /// From the first record made since then: 2h, 3days, 2026-11-21T10:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_since, conflicts_with = "from")]
    pub since: Option<i64>,
    /// Only this partition
    #[arg(long)]
    pub partition: Option<i32>,
    /// From this offset
    #[arg(long, value_name = "OFFSET", requires = "partition")]
    pub from: Option<i64>,
    /// Up to this offset, itself not included; at most to what the workers have committed
    #[arg(long, value_name = "OFFSET", requires = "partition")]
    pub to: Option<i64>,
}

fn user(text: &str) -> Result<UserId, String> {
    UserId::parse(text).map_err(|error| error.to_string())
}

fn chat(text: &str) -> Result<ChatId, String> {
    ChatId::parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
        assert!(Args::try_parse_from(["holdfastctl", "failed", "replay"]).is_err(), "neither chats nor --all");
        assert!(Args::try_parse_from(["holdfastctl", "failed", "replay", "a:b", "--all"]).is_err());
        assert!(Args::try_parse_from(["holdfastctl", "dlq", "list", "--offset", "3"]).is_err());
        assert!(Args::try_parse_from(["holdfastctl", "failed", "show", "b:a"]).is_err(), "no chat");
        assert!(Args::try_parse_from(["holdfastctl", "cache", "warm"]).is_err(), "nobody");
        assert!(Args::try_parse_from(["holdfastctl", "cache", "warm", "alice", "--active", "9"]).is_ok());
        assert!(Args::try_parse_from(["holdfastctl", "cache", "warm", "--active", "0"]).is_err(), "nobody");
        assert!(Args::try_parse_from(["holdfastctl", "cache", "invalidate", "a", "--pattern", "b"]).is_err());
        assert!(Args::try_parse_from(["holdfastctl", "cache", "invalidate", "--pattern", ""]).is_err());
        assert!(Args::try_parse_from(["holdfastctl", "cache", "stats", "--limit", "0"]).is_err());
    }

    #[test]
    fn every_command_is_documented() {
        let page = include_str!("../../../docs/operating.md");
        for command in Args::command().get_subcommands() {
            let names: Vec<_> = command.get_subcommands().map(|leaf| format!(" {}", leaf.get_name())).collect();
            let leaves = if names.is_empty() { vec![String::new()] } else { names };
            for leaf in leaves {
                let heading = format!("### `holdfastctl {}{leaf}", command.get_name());
                assert!(page.contains(&heading), "{heading}");
            }
        }
    }
}
