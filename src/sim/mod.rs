//! `vb-sim`: a simulated OpenAI-compatible server. A model determines its timing to the nanosecond, and it produces faults on
//! demand.
//!
//! ```text
//! server ── routes ── request, api   connections, endpoints, bodies
//!             │
//!           driver ── engine ── blocks, profile      real time │ virtual time
//!             │
//!           stream ── script ── dialect, fault       tokens → bytes
//!             │
//!           wire ── truth_log                        bytes → socket, with timestamps
//! ```
//!
//! `vb-sim` and `vb-fire` check each other, so they share only the modules below both: units, clock, tokens, randomness, the
//! format of prompts, command lines, the pacer, and the socket with its kernel timestamps. The manual is `docs/SIM.md`.

mod api;
mod blocks;
mod dialect;
mod driver;
pub mod engine;
mod fault;
mod logprobs;
mod metrics;
mod profile;
mod request;
mod routes;
mod script;
mod server;
mod stream;
mod truth_log;
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
pub use profile::EngineProfile;
pub use server::{PreparedServer, SimOptions};

use crate::{
    cli::{self, look::LookFlags},
    config::ConfigFlag,
    error::Error,
    tokens::Tokenizer,
    units::{Nanos, parse_count_u32, parse_duration},
};

// The headings of `--help`.
const SERVER: &str = "Server";
const ENGINE: &str = "Engine (defaults come from the profile)";
const RESPONSES: &str = "Responses";

/// Simulate a vLLM server: its APIs, its timing, and faults on demand.
///
/// Prints its base URL on one line when it is ready, and serves until it is interrupted. A TIME is a number with a unit, as in
/// 5ms or 27us; without a unit it is seconds.
#[derive(Debug, clap::Parser)]
#[command(name = "vb-sim", version, after_help = EXAMPLES)]
pub struct Args {
    /// The address to listen on.
    #[arg(long, help_heading = SERVER, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// The port to listen on; 0 chooses a free port.
    #[arg(long, help_heading = SERVER, default_value_t = 8000)]
    port: u16,
    /// The names that clients may use for the model; the first is its own [default: the name of the profile].
    #[arg(long, help_heading = SERVER, value_name = "NAME", action = ArgAction::Append, num_args(1..))]
    served_model_name: Vec<String>,
    /// Require this API key from clients [env: `VLLM_API_KEY`].
    #[arg(long, help_heading = SERVER, value_name = "KEY")]
    api_key: Option<String>,
    /// Serve HTTPS with this certificate chain (PEM).
    #[arg(long, help_heading = SERVER, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The private key of the certificate (PEM).
    #[arg(long, help_heading = SERVER, value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// The model and GPU to simulate: tiny, llama3.1-8b-h100 or qwen2.5-72b-4xh100.
    #[arg(long, help_heading = ENGINE, value_name = "NAME", default_value = "tiny")]
    profile: String,
    /// The constant time of a step, as in 20ms.
    #[arg(long, help_heading = ENGINE, value_name = "TIME", value_parser = parse_duration)]
    step_base: Option<Nanos>,
    /// The time that each prompt token computed in a step adds, as in 27us.
    #[arg(long, help_heading = ENGINE, value_name = "TIME", value_parser = parse_duration)]
    step_per_prefill_token: Option<Nanos>,
    /// The time that each token in the KV cache adds to a step, as in 57ns.
    #[arg(long, help_heading = ENGINE, value_name = "TIME", value_parser = parse_duration)]
    step_per_context_token: Option<Nanos>,
    /// The maximum number of requests in a step.
    #[arg(long, help_heading = ENGINE, value_name = "N", value_parser = parse_count_u32)]
    max_num_seqs: Option<u32>,
    /// The maximum number of tokens computed in a step.
    #[arg(long, help_heading = ENGINE, value_name = "N", value_parser = parse_count_u32)]
    max_num_batched_tokens: Option<u32>,
    /// The maximum length of prompt and output together, in tokens.
    #[arg(long, help_heading = ENGINE, value_name = "N", value_parser = parse_count_u32)]
    max_model_len: Option<u32>,
    /// The number of tokens in a KV block.
    #[arg(long, help_heading = ENGINE, value_name = "N", value_parser = parse_count_u32)]
    block_size: Option<u32>,
    /// The number of KV blocks.
    #[arg(long, help_heading = ENGINE, value_name = "N", value_parser = parse_count_u32)]
    num_gpu_blocks: Option<u32>,
    /// Do not share KV blocks between prompts with a common prefix.
    #[arg(long, help_heading = ENGINE)]
    no_enable_prefix_caching: bool,

    /// The tokenizer: `builtin`, a tokenizer.json or its folder, or an id on the Hugging Face hub.
    #[arg(long, help_heading = RESPONSES, value_name = "NAME", default_value = "builtin")]
    tokenizer: String,
    /// The seed of outputs, output lengths, and the choice of requests that get a fault.
    #[arg(long, help_heading = RESPONSES, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The number of tokens in each chunk after the first.
    #[arg(long, help_heading = RESPONSES, value_name = "K", default_value = "1", value_parser = parse_count_u32)]
    tokens_per_chunk: u32,
    /// A fault for a share of the requests: NAME, NAME:SHARE, NAME@N or NAME:SHARE@N; see docs/SIM.md for the list.
    #[arg(long, help_heading = RESPONSES, value_name = "SPEC", action = ArgAction::Append, num_args(1..))]
    fault: Vec<FaultRule>,
    /// Write the true send time of each token to this file, one JSON line for each request.
    #[arg(long, help_heading = RESPONSES, value_name = "FILE")]
    truth_log: Option<PathBuf>,

    #[command(flatten)]
    look: LookFlags,

    #[command(flatten)]
    config: ConfigFlag,
}

const EXAMPLES: &str = "\
Examples:
  vb-sim                                                serve on 127.0.0.1:8000
  vb-sim --profile llama3.1-8b-h100 --fault stall:0.01@5 --fault status_503:0.02

  coproc vb-sim --port 0 && read -r url <&\"${COPROC[0]}\"
  vb-gen --num-prompts 100 \\
    | vb-fire --base-url \"$url\" --model tiny --max-concurrency 16 | vb-stats";

/// Runs the tool.
pub fn run(args: Args) -> Result<(), Error> {
    let (host, port) = (args.host.clone(), args.port);
    let options = args.into_options()?;
    // With too few of them, clients wait until other clients' connections are closed.
    let _ = cli::raise_open_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::Setup(format!("cannot start the runtime: {e}")))?;
    runtime.block_on(async {
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let stopped = stop_signal()?;
        let server = PreparedServer::new(options)?;
        let (listener, address) = bind_listener(&host, port).await?;
        print_url(&format!("{scheme}://{address}"))?;
        server.serve_until(listener, stopped).await
    })
}

impl Args {
    fn into_options(self) -> Result<SimOptions, Error> {
        let builtin = EngineProfile::from_name(&self.profile)?;
        let profile = EngineProfile {
            name: builtin.name,
            step_base: self.step_base.unwrap_or(builtin.step_base),
            per_prefill_token: self.step_per_prefill_token.unwrap_or(builtin.per_prefill_token),
            per_context_token: self.step_per_context_token.unwrap_or(builtin.per_context_token),
            max_num_seqs: self.max_num_seqs.unwrap_or(builtin.max_num_seqs),
            max_num_batched_tokens: self.max_num_batched_tokens.unwrap_or(builtin.max_num_batched_tokens),
            max_model_len: self.max_model_len.unwrap_or(builtin.max_model_len),
            block_size: self.block_size.unwrap_or(builtin.block_size),
            num_gpu_blocks: self.num_gpu_blocks.unwrap_or(builtin.num_gpu_blocks),
            prefix_caching: !self.no_enable_prefix_caching,
        };
        profile.validate()?;
        let mut models = self.served_model_name;
        if models.is_empty() {
            models.push(profile.name.to_owned());
        }
        let tls = match (self.tls_cert, self.tls_key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err(Error::Usage("--tls-cert and --tls-key must be given together".into())),
        };
        Ok(SimOptions {
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
fn stop_signal() -> Result<impl Future<Output = ()>, Error> {
    let failed = |e| Error::Setup(format!("cannot install the signal handler: {e}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
        }
    })
}

/// Listens on the first address of `host` that works.
async fn bind_listener(host: &str, port: u16) -> Result<(TcpListener, SocketAddr), Error> {
    let addresses =
        lookup_host((host, port)).await.map_err(|e| Error::Setup(format!("--host: cannot resolve {host}: {e}")))?;
    let mut last = format!("--host: {host} has no address");
    for address in addresses {
        match bind_address(address) {
            Ok(bound) => return Ok(bound),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                last = format!("{address} is in use: choose another port with --port, or 0 for a free one");
            }
            Err(e) => last = format!("cannot listen on {address}: {e}"),
        }
    }
    Err(Error::Setup(last))
}

fn bind_address(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    // Room for a burst of connections.
    let listener = socket.listen(4096)?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// Prints the only line on standard output. Scripts wait for it.
fn print_url(url: &str) -> Result<(), Error> {
    let mut out = cli::buffered_stdout();
    writeln!(out, "{url}").and_then(|()| out.flush()).map_err(Error::write_stdout)
}
