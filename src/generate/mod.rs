//! `vb-gen`: turns a dataset into requests.
//!
//! ```text
//! Args ─▶ Common ─▶ the dataset's file ─▶ exact (lengths, words) ─▶ writer ─▶ stdout
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | `args`, `common` | flags and their checks; what every dataset gets |
//! | `dataset` | the table of datasets, one file each |
//! | `exact` | lengths, and texts with exactly that many tokens |
//! | `rows`, `row_stream`, `csv_table` | requests from the rows of a file |
//! | `conversation`, `session` | conversations in files, and one request per turn |
//! | `chat_text`, `media` | chat templates, images and audio |
//! | `ordered`, `writer` | requests made by several threads, written in order |
//! | `mix`, `grid` | `vb-gen mix` and `vb-gen --grid` |

mod args;
mod chat_text;
mod common;
mod conversation;
mod csv_table;
mod dataset;
mod exact;
mod grid;
mod media;
mod mix;
mod ordered;
mod row_stream;
mod rows;
mod session;
mod writer;

use clap::CommandFactory;

pub use self::args::Args;
use self::{args::Command, common::Common, writer::RequestWriter};
use crate::{
    cli,
    error::Error,
    record::{Object, SampleRequest},
};

/// Prints one line to standard error.
fn print_warning(what: impl std::fmt::Display) {
    cli::print_warning("vb-gen", what);
}

/// Runs the tool.
pub fn run(args: &Args) -> Result<(), Error> {
    let flags = &args.common;
    if flags.command.is_some() {
        mix::check_flags(&Args::command(), cli::command_line())?;
    }
    if flags.schema {
        return cli::print_schema::<SampleRequest>();
    }
    if flags.list_datasets {
        return cli::print_to_stdout(&dataset::list_datasets());
    }
    if let Some(format) = flags.grid {
        let config = flags.config.config.as_deref();
        let config = config.ok_or_else(|| Error::Usage("--grid needs a config: add --config config.yaml".into()))?;
        return grid::run(config, format, flags.seed);
    }
    let prefix = flags.request_id_prefix.clone().unwrap_or_else(|| format!("vb-{}-", flags.seed));
    let tags: Object = flags.tag.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
    let tags = (!tags.is_empty()).then_some(tags);
    let mut writer =
        RequestWriter::new(prefix, tags, flags.generates_tokens(), flags.read_ahead(), flags.max_model_len);
    if let Some(Command::Mix(mix)) = &flags.command {
        let num_prompts = flags.num_prompts.unwrap_or(0);
        writer.announce(num_prompts);
        mix::run(mix, flags.seed, num_prompts, &mut writer)?;
        return writer.finish();
    }
    args.check_flags()?;
    let common = Common::from_args(args)?;
    writer.announce(common.num_prompts);
    (flags.dataset_name.run)(&common, &args.own, &mut writer)?;
    writer.finish()
}
