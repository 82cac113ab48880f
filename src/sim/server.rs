//! Accepts and serves connections, with or without TLS.

use std::{cell::Cell, path::PathBuf, rc::Rc, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    net::{TcpListener, TcpStream},
    task::LocalSet,
};
use tokio_rustls::TlsAcceptor;

use super::{
    driver::Driver,
    engine::SimEngine,
    fault::FaultRule,
    profile::EngineProfile,
    routes::SimServer,
    truth_log::TruthLog,
    vocabulary::Vocabulary,
    wire::{ConnectionTap, SharedTap, Wire, WireStream},
};
use crate::{
    clock::Clock,
    error::Error,
    http::socket::{KernelStamping, Socket},
    pacer::Pacer,
    tokens::Tokenizer,
};

/// The configuration of a simulated server.
#[derive(Debug, Clone, Default)]
pub struct SimOptions {
    /// The engine.
    pub profile: EngineProfile,
    /// Selects the outputs, their lengths without `ignore_eos`, and the requests that get a fault.
    pub seed: u64,
    /// The tokenizer of the prompts; `None`: the built-in one.
    pub tokenizer: Option<Tokenizer>,
    /// The names of the model; the first is its own.
    pub models: Vec<String>,
    /// The API key that clients must send; `None`: no key.
    pub api_key: Option<String>,
    /// Faults, each for a share of the requests.
    pub faults: Vec<FaultRule>,
    /// Tokens in each chunk after the first.
    pub tokens_per_chunk: u32,
    /// The file for the truth log.
    pub truth_log: Option<PathBuf>,
    /// PEM files of the certificate chain and of its key; `None`: no TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// A server that is ready to serve on a listener.
pub struct PreparedServer {
    server: Rc<SimServer>,
    pacer: Pacer,
    truth: Option<Rc<TruthLog>>,
    tls: Option<TlsAcceptor>,
    /// Turned on before any connection is accepted, so that requests that arrive before the accept have timestamps too.
    stamping: KernelStamping,
}

impl PreparedServer {
    /// Opens the files and builds the engine.
    pub fn new(mut options: SimOptions) -> Result<Self, Error> {
        let clock = Clock::start();
        let tls = options.tls.as_ref().map(|(cert, key)| tls_acceptor(cert, key)).transpose()?;
        let truth = options.truth_log.as_deref().map(TruthLog::create).transpose()?.map(Rc::new);
        let server = SimServer {
            clock,
            vocabulary: Rc::new(options.tokenizer.take().map_or_else(Vocabulary::builtin, Vocabulary::new)?),
            driver: Driver::new(SimEngine::new(options.profile.clone())?, clock),
            generated_ids: Cell::new(0),
            options,
        };
        Ok(PreparedServer {
            server: Rc::new(server),
            pacer: Pacer::start(clock)?,
            truth,
            tls,
            stamping: KernelStamping::switch_on(),
        })
    }

    /// Serves on `listener` until `shutdown` resolves. Requests that are in flight then are dropped.
    pub async fn serve_until(self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let PreparedServer { server, pacer, truth, tls, stamping: _stamping } = self;
        let tasks = LocalSet::new();
        let done = tasks
            .run_until(async {
                tokio::select! {
                    () = shutdown => Ok(()),
                    done = server.driver.run(pacer, truth.clone()) => done,
                    never = accept_connections(&listener, &server, truth.as_ref(), tls.as_ref()) => match never {},
                }
            })
            .await;
        // Dropping the connections writes their lines to the log, before it is flushed.
        drop(tasks);
        if let Some(log) = truth {
            log.flush()?;
        }
        done
    }
}

/// Loads the certificate and key of `--tls-cert` and `--tls-key`.
fn tls_acceptor(cert: &PathBuf, key: &PathBuf) -> Result<TlsAcceptor, Error> {
    let invalid = |path: &PathBuf, problem: &dyn std::fmt::Display| {
        Error::Usage(format!("{}: {problem}: it must be a PEM file", path.display()))
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .map_err(|e| invalid(cert, &format!("cannot read the certificate: {e}")))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| invalid(key, &format!("cannot read the key: {e}")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|e| invalid(cert, &format!("the certificate and its key cannot be used: {e}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept_connections(
    listener: &TcpListener,
    server: &Rc<SimServer>,
    truth: Option<&Rc<TruthLog>>,
    tls: Option<&TlsAcceptor>,
) -> std::convert::Infallible {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let tap = ConnectionTap::new(server.clock, truth.cloned());
                tokio::task::spawn_local(serve_connection(socket, Rc::clone(server), tap, tls.cloned()));
            }
            // Most likely there are too many open files: wait until other connections finish.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Serves one connection until it ends. Errors are ignored here: the client sees how the connection ends, and so does the truth
/// log.
async fn serve_connection(tcp: TcpStream, server: Rc<SimServer>, tap: SharedTap, tls: Option<TlsAcceptor>) {
    let socket = Socket::new(tcp, server.clock);
    let stream = match tls {
        None => WireStream::Plain(socket),
        Some(tls) => match tls.accept(socket).await {
            Ok(stream) => WireStream::Tls(Box::new(stream)),
            Err(_) => return,
        },
    };
    let wire = TokioIo::new(Wire::new(stream, Rc::clone(&tap)));
    let service = service_fn(move |request| Rc::clone(&server).handle_request(request, Rc::clone(&tap)));
    let _ = http1::Builder::new().serve_connection(wire, service).await;
}
