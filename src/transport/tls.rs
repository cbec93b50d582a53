//! TLS 1.3 between nodes: each proves its node key, nobody else's word is needed.
//!
//! The certificates are libp2p's (libp2p TLS specification): self-signed with a key of the process's own, carrying
//! the node's public key and its signature over that key. So a connection proves *which node* is at the other end;
//! whether that node belongs here is the passport's business (`hello`).
//!
//! Sessions are not resumed and no early data is taken: a revoked node must prove itself anew each time. Session
//! secrets are never logged, whatever `SSLKEYLOGFILE` says (libp2p's own connections obey it: see
//! [`forget_key_log_file`]).

use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, NoKeyLog, OtherError, ServerConfig,
    SignatureScheme,
};

use crate::base::id::NodeId;
use crate::transport::identity::{NodeKey, node_id};

/// Protocol name agreed within TLS, so that another service on the port is recognised as such.
const ALPN: &[u8] = b"infinit/1";

/// The TLS configuration of one node, in both directions.
pub(crate) struct Tls {
    provider: Arc<CryptoProvider>,
    certificate: Arc<SingleCertAndKey>,
    server: Arc<ServerConfig>,
}

impl Tls {
    /// Makes a certificate for this node and the configurations around it.
    pub(crate) fn new(key: &NodeKey) -> Result<Tls, TlsError> {
        let (certificate, private) =
            libp2p_tls::certificate::generate(&key.keypair()).map_err(|e| TlsError(e.to_string()))?;
        Self::with_certificate(certificate, private)
    }

    /// The configurations around a certificate and its private key.
    pub(crate) fn with_certificate(
        certificate: CertificateDer<'static>,
        private: PrivateKeyDer<'static>,
    ) -> Result<Tls, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let signer = rustls::crypto::ring::sign::any_ecdsa_type(&private).map_err(|e| TlsError(e.to_string()))?;
        let certificate = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate], signer)));
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| TlsError(e.to_string()))?
            .with_client_cert_verifier(Arc::new(NodeVerifier { wanted: None }))
            .with_cert_resolver(certificate.clone());
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.key_log = Arc::new(NoKeyLog {});
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Tls { provider, certificate, server: Arc::new(server) })
    }

    /// For connections that others open; any node that proves its key gets through.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// For a connection to one node: whoever else answers is refused.
    pub(crate) fn client(&self, wanted: NodeId) -> Result<Arc<ClientConfig>, TlsError> {
        let mut client = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| TlsError(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(NodeVerifier { wanted: Some(wanted) }))
            .with_client_cert_resolver(self.certificate.clone());
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.key_log = Arc::new(NoKeyLog {});
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        Ok(Arc::new(client))
    }
}

/// The node that a verified certificate belongs to.
pub(crate) fn certified_node(certificates: Option<&[CertificateDer<'static>]>) -> Option<NodeId> {
    let certificate = libp2p_tls::certificate::parse(certificates?.first()?).ok()?;
    node_id(&certificate.peer_id())
}

/// Takes `SSLKEYLOGFILE` out of this process's environment, so that libp2p's TLS never writes session secrets.
///
/// # Safety
/// Call it first in `main`, before any other thread exists: the environment is shared and unguarded.
pub unsafe fn forget_key_log_file() {
    // SAFETY: the caller promises that no other thread runs yet.
    unsafe { std::env::remove_var(KEY_LOG_VARIABLE) }
}

/// The variable that makes TLS libraries write session secrets to a file.
pub(crate) const KEY_LOG_VARIABLE: &str = "SSLKEYLOGFILE";

/// TLS could not be set up: the crypto library refused the key or the certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError(pub(crate) String);

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot set up TLS: {}", self.0)
    }
}

impl std::error::Error for TlsError {}

/// Another node than the one that was dialled answers at the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WrongNode {
    pub(crate) wanted: NodeId,
    pub(crate) found: NodeId,
}

impl fmt::Display for WrongNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} answers there, not {}", self.found.short(), self.wanted.short())
    }
}

impl std::error::Error for WrongNode {}

/// Checks a libp2p certificate, and whose it is if one node is wanted.
#[derive(Debug)]
struct NodeVerifier {
    wanted: Option<NodeId>,
}

impl NodeVerifier {
    fn check(&self, certificate: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        if !others.is_empty() {
            return Err(CertificateError::BadEncoding.into());
        }
        let parsed = libp2p_tls::certificate::parse(certificate).map_err(|_| CertificateError::BadEncoding)?;
        let found = node_id(&parsed.peer_id()).ok_or(CertificateError::BadEncoding)?;
        match self.wanted {
            Some(wanted) if wanted != found => {
                Err(CertificateError::Other(OtherError(Arc::new(WrongNode { wanted, found }))).into())
            }
            _ => Ok(()),
        }
    }

    /// That the other end holds the certificate's private key (RFC 8446, 4.4.3).
    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let parsed = libp2p_tls::certificate::parse(certificate).map_err(|_| CertificateError::BadEncoding)?;
        parsed
            .verify_signature(signed.scheme, message, signed.signature())
            .map_err(|_| CertificateError::BadSignature)?;
        Ok(HandshakeSignatureValid::assertion())
    }
}

/// TLS 1.2 is not offered, so a signature of it can only be an attack.
const NO_TLS12: rustls::Error = rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered);

/// What libp2p's certificates are signed with; ring verifies these.
const SCHEMES: [SignatureScheme; 3] =
    [SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ECDSA_NISTP384_SHA384, SignatureScheme::ED25519];

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(certificate, others).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

impl ClientCertVerifier for NodeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(certificate, others).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}
