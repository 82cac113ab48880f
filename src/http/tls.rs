//! TLS settings, the same for the connections under the stopwatch and for all others.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use rustls_platform_verifier::ConfigVerifierExt;

use crate::error::Error;

/// Chooses ring for the whole process, once; later calls change nothing.
pub fn install_provider() {
    let _ = ring::default_provider().install_default();
}

/// The client's settings: the system's certificates (on Linux also `SSL_CERT_FILE`), or none checked if `insecure`.
pub fn client_config(insecure: bool) -> Result<Arc<ClientConfig>, Error> {
    install_provider();
    let mut config = if insecure {
        let accept = AcceptAll(ring::default_provider().signature_verification_algorithms);
        ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(accept)).with_no_client_auth()
    } else {
        ClientConfig::with_platform_verifier()
            .map_err(|e| Error::Setup(format!("cannot read the system's certificates: {e}")))?
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Accepts every certificate: `--insecure`.
#[derive(Debug)]
struct AcceptAll(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AcceptAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
