//! `vb-sim`: an OpenAI-compatible server whose timing is a model, known to the nanosecond, and whose faults are wanted.
//!
//! ```text
//! server ── routes ── request, api   connections, endpoints, bodies
//!             │
//!           driver ── engine ── blocks, profile      real time │ virtual time
//!             │
//!           stream ── script ── events, fault        tokens → bytes
//!             │
//!           wire ── truth                            bytes → socket, and when
//! ```
//!
//! It shares nothing with `vb-fire` but what lies under both, so that one can check the other: units, clock, tokens, randomness, the
//! form of a prompt, command lines, and the sleep and the kernel's stamps of its own socket.
//! `docs/SIM.md` is its manual.

mod api;
mod blocks;
mod driver;
pub(crate) mod engine;
mod events;
mod fault;
mod logprobs;
mod metrics;
mod profile;
mod request;
mod routes;
mod script;
mod server;
mod stream;
mod truth;
mod vocabulary;
mod wire;

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
};

use clap::ArgAction;
use tokio::{
    net::{TcpListener, TcpSocket, lookup_host},
    signal::unix::{SignalKind, signal},
};

pub use fault::{Fault, FaultKind, FaultRule};
pub use profile::Profile;
pub use server::{Options, Prepared};

use crate::{
    cli,
    config::ConfigFlag,
    error::Error,
    tokens::Tokenizer,
    units::{Nanos, parse_count_u32, parse_duration},
};

// The headings of `--help`.
const SERVER: &str = "Server";
const ENGINE: &str = "Engine (what is not given is the profile's)";
const ANSWERS: &str = "Answers";

/// Serves a simulated vLLM: its API, its timing by a model, and faults on demand.
///
/// Prints its base URL, one line, when it is ready, and serves until it is interrupted. A TIME is written as 5ms or
/// 27us; a bare number is seconds.
#[derive(Debug, clap::Parser)]
#[command(name = "vb-sim", version, after_help = EXAMPLES)]
pub struct Args {
    /// The address to listen on.
    #[arg(long, help_heading = SERVER, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// The port to listen on; 0: any that is free.
    #[arg(long, help_heading = SERVER, default_value_t = 8000)]
    port: u16,
    /// The names of the model, the first being its own [default: the name of the profile].
    #[arg(long, help_heading = SERVER, value_name = "NAME", action = ArgAction::Append, num_args(1..))]
    served_model_name: Vec<String>,
    /// Ask clients for this key, also taken from `VLLM_API_KEY`.
    #[arg(long, help_heading = SERVER, value_name = "KEY")]
    api_key: Option<String>,
    /// Serve HTTPS with this certificate (PEM, with its chain).
    #[arg(long, help_heading = SERVER, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The key of the certificate (PEM).
    #[arg(long, help_heading = SERVER, value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// The model and GPU to be: tiny, llama3.1-8b-h100 or qwen2.5-72b-4xh100.
    #[arg(long, help_heading = ENGINE, value_name = "NAME", default_value = "tiny")]
    profile: String,
    /// What every step costs, as 20ms.
    #[arg(long, help_heading = ENGINE, value_name = "TIME", value_parser = parse_duration)]
    step_base: Option<Nanos>,
    /// What each prompt token computed in a step adds, as 27us.
    #[arg(long, help_heading = ENGINE, value_name = "TIME", value_parser = parse_duration)]
    step_per_prefill_token: Option<Nanos>,
    /// What each token that a step finds in the KV cache adds, as 57ns.
    #[arg(long, help_heading = ENGINE, value_name = "TIME", value_parser = parse_duration)]
    step_per_context_token: Option<Nanos>,
    /// The most requests in a step.
    #[arg(long, help_heading = ENGINE, value_name = "N", value_parser = parse_count_u32)]
    max_num_seqs: Option<u32>,
    /// The most tokens computed in a step.
    #[arg(long, help_heading = ENGINE, value_name = "N", value_parser = parse_count_u32)]
    max_num_batched_tokens: Option<u32>,
    /// The longest prompt and answer together, in tokens.
    #[arg(long, help_heading = ENGINE, value_name = "N", value_parser = parse_count_u32)]
    max_model_len: Option<u32>,
    /// Tokens in a KV block.
    #[arg(long, help_heading = ENGINE, value_name = "N", value_parser = parse_count_u32)]
    block_size: Option<u32>,
    /// KV blocks in all.
    #[arg(long, help_heading = ENGINE, value_name = "N", value_parser = parse_count_u32)]
    num_gpu_blocks: Option<u32>,
    /// Do not share KV blocks between prompts with the same beginning.
    #[arg(long, help_heading = ENGINE)]
    no_enable_prefix_caching: bool,

    /// What reads the prompts: `builtin`, a tokenizer.json or its folder, or an id on the Hugging Face hub.
    #[arg(long, help_heading = ANSWERS, value_name = "NAME", default_value = "builtin")]
    tokenizer: String,
    /// Which answers are given, how long they are, and who gets a fault.
    #[arg(long, help_heading = ANSWERS, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Tokens in each event after the first.
    #[arg(long, help_heading = ANSWERS, value_name = "K", default_value = "1", value_parser = parse_count_u32)]
    tokens_per_chunk: u32,
    /// A fault for a share of the requests: NAME, NAME:SHARE, NAME@N or NAME:SHARE@N (docs/SIM.md lists them).
    #[arg(long, help_heading = ANSWERS, value_name = "SPEC", action = ArgAction::Append, num_args(1..))]
    fault: Vec<FaultRule>,
    /// Write when each token really left, one line of JSON for each request.
    #[arg(long, help_heading = ANSWERS, value_name = "FILE")]
    truth_log: Option<PathBuf>,

    #[command(flatten)]
    config: ConfigFlag,
}

const EXAMPLES: &str = "\
Examples:
  vb-sim                                                serve on 127.0.0.1:8000
  vb-sim --profile llama3.1-8b-h100 --fault stall:0.01@5 --fault status_503:0.02

  coproc vb-sim --port 0 && read -r url <&\"${COPROC[0]}\"
  vb-gen --num-prompts 100 | vb-fire --base-url \"$url\" --model tiny --max-concurrency 16 | vb-stats";

/// Runs the tool.
pub fn run(args: Args) -> Result<(), Error> {
    let (host, port) = (args.host.clone(), args.port);
    let options = args.into_options()?;
    // Where they are too few, clients wait for each other's connections to close.
    let _ = cli::raise_open_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::Setup(format!("cannot start the runtime: {e}")))?;
    runtime.block_on(async {
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let stopped = stopped()?;
        let server = Prepared::new(options)?;
        let (listener, address) = listen(&host, port).await?;
        announce(&format!("{scheme}://{address}"))?;
        server.serve(listener, stopped).await
    })
}

impl Args {
    fn into_options(self) -> Result<Options, Error> {
        let named = Profile::named(&self.profile)?;
        let profile = Profile {
            name: named.name,
            step_base: self.step_base.unwrap_or(named.step_base),
            per_prefill_token: self.step_per_prefill_token.unwrap_or(named.per_prefill_token),
            per_context_token: self.step_per_context_token.unwrap_or(named.per_context_token),
            max_num_seqs: self.max_num_seqs.unwrap_or(named.max_num_seqs),
            max_num_batched_tokens: self.max_num_batched_tokens.unwrap_or(named.max_num_batched_tokens),
            max_model_len: self.max_model_len.unwrap_or(named.max_model_len),
            block_size: self.block_size.unwrap_or(named.block_size),
            num_gpu_blocks: self.num_gpu_blocks.unwrap_or(named.num_gpu_blocks),
            prefix_caching: !self.no_enable_prefix_caching,
        };
        profile.check()?;
        let mut models = self.served_model_name;
        if models.is_empty() {
            models.push(profile.name.to_owned());
        }
        let tls = match (self.tls_cert, self.tls_key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err(Error::Usage("--tls-cert and --tls-key go together".into())),
        };
        Ok(Options {
            profile,
            seed: self.seed,
            tokenizer: Some(Tokenizer::open(&self.tokenizer)?),
            models,
            api_key: self.api_key.or_else(|| std::env::var("VLLM_API_KEY").ok()).filter(|key| !key.is_empty()),
            faults: self.fault,
            tokens_per_chunk: self.tokens_per_chunk.max(1),
            truth_log: self.truth_log,
            tls,
        })
    }
}

/// Resolves at SIGINT or SIGTERM.
fn stopped() -> Result<impl Future<Output = ()>, Error> {
    let failed = |e| Error::Setup(format!("cannot install the handler for signals: {e}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
        }
    })
}

/// Listens, with room for a burst of connections.
async fn listen(host: &str, port: u16) -> Result<(TcpListener, SocketAddr), Error> {
    let addresses =
        lookup_host((host, port)).await.map_err(|e| Error::Setup(format!("--host: cannot resolve {host}: {e}")))?;
    let mut last = format!("--host: {host} has no address");
    for address in addresses {
        match listen_on(address) {
            Ok(listening) => return Ok(listening),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                last = format!("{address} is in use: choose another with --port, or 0 for any that is free");
            }
            Err(e) => last = format!("cannot listen on {address}: {e}"),
        }
    }
    Err(Error::Setup(last))
}

fn listen_on(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(4096)?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// The one line on standard output, which scripts wait for.
fn announce(url: &str) -> Result<(), Error> {
    let mut out = cli::buffered_stdout();
    writeln!(out, "{url}").and_then(|()| out.flush()).map_err(Error::write_stdout)
}
