//! Connections: accepting, TLS, and the end.

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
    engine::Engine,
    fault::FaultRule,
    profile::Profile,
    routes::Server,
    truth::TruthLog,
    vocabulary::Vocabulary,
    wire::{SharedTap, Stream, Tap, Wire},
};
use crate::{
    clock::Clock,
    error::Error,
    http::socket::{KernelStamping, Socket},
    pacer::Pacer,
    tokens::Tokenizer,
};

/// What a server is to be.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The engine.
    pub profile: Profile,
    /// Picks the texts, the lengths of answers that end by themselves, and who gets a fault.
    pub seed: u64,
    /// What reads the prompts; `None`: the built-in one.
    pub tokenizer: Option<Tokenizer>,
    /// The names of the model, the first being its own.
    pub models: Vec<String>,
    /// What clients must know; `None`: nothing.
    pub api_key: Option<String>,
    /// Faults for shares of the requests.
    pub faults: Vec<FaultRule>,
    /// Tokens in each event after the first.
    pub tokens_per_chunk: u32,
    /// Where to write when each token left.
    pub truth_log: Option<PathBuf>,
    /// PEM files of the certificate with its chain, and of its key; `None`: no TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// A server that has everything it needs but a listener.
pub struct Prepared {
    server: Rc<Server>,
    pacer: Pacer,
    truth: Option<Rc<TruthLog>>,
    tls: Option<TlsAcceptor>,
    /// So that requests which arrive on a connection that is not accepted yet are stamped too.
    stamping: KernelStamping,
}

impl Prepared {
    /// Opens the files and builds the engine.
    pub fn new(mut options: Options) -> Result<Self, Error> {
        let clock = Clock::start();
        let tls = options.tls.as_ref().map(|(cert, key)| acceptor(cert, key)).transpose()?;
        let truth = options.truth_log.as_deref().map(TruthLog::create).transpose()?.map(Rc::new);
        let server = Server {
            clock,
            vocabulary: Rc::new(options.tokenizer.take().map_or_else(Vocabulary::builtin, Vocabulary::of)?),
            driver: Driver::new(Engine::new(options.profile.clone())?, clock),
            unnamed: Cell::new(0),
            options,
        };
        Ok(Prepared {
            server: Rc::new(server),
            pacer: Pacer::start(clock)?,
            truth,
            tls,
            stamping: KernelStamping::switch_on(),
        })
    }

    /// Serves on `listener` until `shutdown` is there; whatever is under way then is cut.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let Prepared { server, pacer, truth, tls, stamping: _stamping } = self;
        let tasks = LocalSet::new();
        let done = tasks
            .run_until(async {
                tokio::select! {
                    () = shutdown => Ok(()),
                    done = server.driver.run(pacer, truth.clone()) => done,
                    never = accept(&listener, &server, truth.as_ref(), tls.as_ref()) => match never {},
                }
            })
            .await;
        // Every connection leaves its line in the log before that is closed.
        drop(tasks);
        if let Some(log) = truth {
            log.flush()?;
        }
        done
    }
}

/// The certificate and key of `--tls-cert` and `--tls-key`.
fn acceptor(cert: &PathBuf, key: &PathBuf) -> Result<TlsAcceptor, Error> {
    let wrong = |path: &PathBuf, what: &dyn std::fmt::Display| {
        Error::Usage(format!("{}: {what}: it must be a PEM file", path.display()))
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .map_err(|e| wrong(cert, &format!("cannot read the certificate: {e}")))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong(key, &format!("cannot read the key: {e}")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|e| wrong(cert, &format!("the certificate and its key cannot be used: {e}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(
    listener: &TcpListener,
    server: &Rc<Server>,
    truth: Option<&Rc<TruthLog>>,
    tls: Option<&TlsAcceptor>,
) -> std::convert::Infallible {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let tap = Tap::new(server.clock, truth.cloned());
                tokio::task::spawn_local(connection(socket, Rc::clone(server), tap, tls.cloned()));
            }
            // Out of files, most likely: others must finish first.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Serves one connection to its end. How it ends is the client's business, and in the truth log.
async fn connection(tcp: TcpStream, server: Rc<Server>, tap: SharedTap, tls: Option<TlsAcceptor>) {
    let socket = Socket::new(tcp, server.clock);
    let stream = match tls {
        None => Stream::Plain(socket),
        Some(tls) => match tls.accept(socket).await {
            Ok(stream) => Stream::Tls(Box::new(stream)),
            Err(_) => return,
        },
    };
    let wire = TokioIo::new(Wire::new(stream, Rc::clone(&tap)));
    let service = service_fn(move |request| Rc::clone(&server).answer(request, Rc::clone(&tap)));
    let _ = http1::Builder::new().serve_connection(wire, service).await;
}
