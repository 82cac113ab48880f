//! Flags of `vllm bench serve` that ask for what is done here anyway, so that its command lines work as they are.

use super::DatasetName;
use crate::error::Error;

/// Taken, and nothing changes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Flags of vLLM's that change nothing")]
pub struct VllmArgs {
    /// Send texts as they are, as is done without --apply-chat-template anyway.
    #[arg(long)]
    skip_chat_template: bool,
    /// Read the whole file, as is done anyway (hf).
    #[arg(long)]
    no_stream: bool,
    /// Nothing: tokenizers are files without code here.
    #[arg(long)]
    #[allow(dead_code)] // A permission that nobody needs.
    trust_remote_code: bool,
}

impl VllmArgs {
    /// Refuses what would change something.
    pub fn check(&self, dataset: DatasetName, apply_chat_template: bool) -> Result<(), Error> {
        if self.skip_chat_template && apply_chat_template {
            return Err(Error::Usage("--skip-chat-template and --apply-chat-template: give one of them".into()));
        }
        if self.no_stream && dataset != DatasetName::Hf {
            return Err(Error::Usage(
                "--no-stream is for --dataset-name hf here; whether the server streams its replies is a flag of vb-fire".into(),
            ));
        }
        Ok(())
    }
}
