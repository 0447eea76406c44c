//! A certificate and the private key that it was made for.

use std::fmt;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};

/// Why a certificate and a key are of no use. None of these says anything of what is in a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPairError {
    /// There is no `BEGIN CERTIFICATE` in it.
    NoCertificate,
    /// What is in there cannot be read.
    BadCertificate,
    /// There is no `BEGIN … PRIVATE KEY` in it.
    NoKey,
    /// It asks for a password, and nobody is there to give one.
    EncryptedKey,
    /// What is in there cannot be read, or is of a kind that TLS has no use for.
    BadKey,
    /// Each is as it should be, and the certificate was made for another key.
    Mismatch,
}

impl KeyPairError {
    /// Whether it is the key file that has to be changed, rather than that of the certificate.
    pub fn is_of_key(self) -> bool {
        match self {
            Self::NoCertificate | Self::BadCertificate => false,
            Self::NoKey | Self::EncryptedKey | Self::BadKey | Self::Mismatch => true,
        }
    }

    /// What to do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Self::NoCertificate => {
                "it holds PEM, the server's own certificate first: `-----BEGIN CERTIFICATE-----`"
            }
            Self::BadCertificate => "look at it with `openssl x509 -in FILE -text`",
            Self::NoKey => "it holds PEM: `-----BEGIN PRIVATE KEY-----`",
            Self::EncryptedKey => "write it without a password: `openssl pkey -in FILE -out NEW`",
            Self::BadKey => "a key is RSA from 2048 bits, ECDSA P-256 to P-521, or Ed25519",
            Self::Mismatch => {
                "the public key of both is the same: `openssl x509 -pubkey -noout -in FILE` and \
                 `openssl pkey -pubout -in FILE`"
            }
        }
    }
}

impl fmt::Display for KeyPairError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoCertificate => "there is no certificate in this file",
            Self::BadCertificate => "the first certificate in this file cannot be read",
            Self::NoKey => "there is no private key in this file",
            Self::EncryptedKey => "the private key in this file is encrypted",
            Self::BadKey => "the private key in this file cannot be used",
            Self::Mismatch => "the certificate was made for another key than this one",
        })
    }
}

impl std::error::Error for KeyPairError {}

/// Whether the first certificate of a PEM text was made for the first key of another.
pub fn check_key_pair(certificates: &[u8], key: &[u8]) -> Result<(), KeyPairError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates).collect();
    let chain = chain.map_err(|_| KeyPairError::BadCertificate)?;
    if chain.is_empty() {
        return Err(KeyPairError::NoCertificate);
    }
    let unusable = |otherwise| match is_encrypted(key) {
        true => KeyPairError::EncryptedKey,
        false => otherwise,
    };
    let der = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
        pem::Error::NoItemsFound => unusable(KeyPairError::NoKey),
        _ => unusable(KeyPairError::BadKey),
    })?;
    let key = any_supported_type(&der).map_err(|_| unusable(KeyPairError::BadKey))?;
    match CertifiedKey::new(chain, key).keys_match() {
        // Every kind of key that is supported tells its public half.
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(()),
        Err(Error::InconsistentKeys(_)) => Err(KeyPairError::Mismatch),
        Err(_) => Err(KeyPairError::BadCertificate),
    }
}

/// In both notations: PKCS #8 (RFC 7468 §11), and the older one of OpenSSL (RFC 1421 §4.6.1.1).
fn is_encrypted(key: &[u8]) -> bool {
    let says = |words: &[u8]| key.windows(words.len()).any(|window| window == words);
    says(b"BEGIN ENCRYPTED PRIVATE KEY") || says(b"Proc-Type: 4,ENCRYPTED")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(algorithm: &'static rcgen::SignatureAlgorithm) -> (String, String) {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let names = ["reviews.shop".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn judge(certificate: &str, key: &str) -> Result<(), KeyPairError> {
        check_key_pair(certificate.as_bytes(), key.as_bytes())
    }

    #[test]
    fn what_belongs_together_and_what_does_not() {
        let kinds = [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ED25519,
            &rcgen::PKCS_RSA_SHA256,
        ];
        let pairs = kinds.map(pair);
        for (n, (certificate, _)) in pairs.iter().enumerate() {
            for (m, (_, key)) in pairs.iter().enumerate() {
                let expect = if n == m { Ok(()) } else { Err(KeyPairError::Mismatch) };
                assert_eq!(judge(certificate, key), expect, "certificate {n}, key {m}");
            }
        }
        let (_, other_of_its_kind) = pair(kinds[0]);
        assert_eq!(judge(&pairs[0].0, &other_of_its_kind), Err(KeyPairError::Mismatch));
        // The first of a chain counts; both may stand in one file.
        let chain = format!("{}{}", pairs[0].0, pairs[1].0);
        assert_eq!(judge(&chain, &pairs[0].1), Ok(()));
        let both = format!("{}{}", pairs[0].1, pairs[0].0);
        assert_eq!(judge(&both, &both), Ok(()));
    }

    #[test]
    fn what_cannot_be_read_is_told_apart() {
        let (certificate, key) = pair(&rcgen::PKCS_ECDSA_P256_SHA256);
        let body = |text: &str| text.lines().nth(1).unwrap().to_owned();
        let broken = |text: &str| text.replacen(&body(text), &body(text).replace('A', "B"), 1);
        for (certificate, key, expect) in [
            ("", &*key, KeyPairError::NoCertificate),
            (&key, &key, KeyPairError::NoCertificate),
            (&broken(&certificate), &key, KeyPairError::BadCertificate),
            ("-----BEGIN CERTIFICATE-----\n!\n", &key, KeyPairError::BadCertificate),
            (&certificate, "", KeyPairError::NoKey),
            (&certificate, &certificate, KeyPairError::NoKey),
            (&certificate, &broken(&key), KeyPairError::BadKey),
            (&certificate, "-----BEGIN PRIVATE KEY-----\n!\n", KeyPairError::BadKey),
            (
                &certificate,
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
                KeyPairError::EncryptedKey,
            ),
            (
                &certificate,
                "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
                KeyPairError::EncryptedKey,
            ),
        ] {
            assert_eq!(judge(certificate, key), Err(expect));
        }
    }
}
