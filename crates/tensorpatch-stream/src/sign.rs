//! Signatures over records (spec/stream.md section 4.4).

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use tensorpatch_format::ErrorKind;

/// The parts of the suffix of a signed record around key and signature.
const BEFORE_KEY: &str = r#","signature":{"ed25519":""#;
const BEFORE_VALUE: &str = r#"","value":""#;
const END: &str = r#""}}"#;
const KEY_DIGITS: usize = 64;
const VALUE_DIGITS: usize = 128;

/// A secret key that signs records.
#[derive(Clone)]
pub struct SignKey(SigningKey);

/// A public key whose signatures are trusted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TrustKey(VerifyingKey);

/// A text that is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an ed25519 key: expected 64 hexadecimal digits")]
pub struct KeyTextError;

impl KeyTextError {
    /// Who must act on it.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Refused
    }
}

impl SignKey {
    /// A new random key.
    pub fn generate() -> Self {
        Self(SigningKey::from_bytes(&rand::random()))
    }

    /// The secret, as 64 hexadecimal digits, for a file that nobody else can read.
    pub fn to_secret_text(&self) -> String {
        hex::encode(self.0.to_bytes())
    }

    /// The public key that belongs to it.
    pub fn public(&self) -> TrustKey {
        TrustKey(self.0.verifying_key())
    }

    /// The record of `format` that ends with a signature over `record`.
    pub fn sign(&self, format: &str, mut record: Vec<u8>) -> Vec<u8> {
        // The closing brace moves behind the signature.
        record.pop();
        let signature = self.0.sign(&message(format, &record));
        let public = hex::encode(self.0.verifying_key().as_bytes());
        let value = hex::encode(signature.to_bytes());
        record.extend_from_slice(format!("{BEFORE_KEY}{public}{BEFORE_VALUE}{value}{END}").as_bytes());
        record
    }
}

impl fmt::Debug for SignKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignKey(public {})", self.public())
    }
}

impl FromStr for SignKey {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        Ok(Self(SigningKey::from_bytes(&digits(text)?)))
    }
}

impl fmt::Display for TrustKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0.as_bytes()))
    }
}

impl fmt::Debug for TrustKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TrustKey {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        VerifyingKey::from_bytes(&digits(text)?).map(Self).map_err(|_| KeyTextError)
    }
}

fn digits(text: &str) -> Result<[u8; 32], KeyTextError> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text.trim(), &mut bytes).map_err(|_| KeyTextError)?;
    Ok(bytes)
}

fn message(format: &str, record: &[u8]) -> Vec<u8> {
    [b"tensorpatch.v1.", format.as_bytes(), b"\0", record].concat()
}

/// The key among `keys` that has signed a record of `format`.
///
/// # Errors
/// Why none of them has.
pub fn signer(format: &str, record: &[u8], keys: &[TrustKey]) -> Result<TrustKey, String> {
    let (signed, key, value) = split(record).ok_or("it is not signed")?;
    let trusted = keys.iter().find(|trusted| trusted.to_string().as_bytes() == key);
    let key = trusted.ok_or_else(|| match named_signer(record) {
        Some(key) => format!("it is signed by {key}, a key that is not trusted"),
        None => "it is signed by a key that is not trusted".to_owned(),
    })?;
    let signature = signature(value);
    if signature.is_some_and(|signature| key.0.verify_strict(&message(format, signed), &signature).is_ok()) {
        return Ok(*key);
    }
    Err(format!("its signature by {key} does not fit its contents"))
}

/// The signature with these digits. They cannot be written in two ways, so that one record has one digest.
fn signature(digits: &[u8]) -> Option<Signature> {
    let mut bytes = [0; 64];
    let decoded = hex::decode_to_slice(digits, &mut bytes).is_ok();
    (decoded && !digits.iter().any(u8::is_ascii_uppercase)).then(|| Signature::from_bytes(&bytes))
}

/// A signature over a statement that is no record of its own: a key agrees that another takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consent(Signature);

/// A text that is no signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a signature: expected 128 lower-case hexadecimal digits")]
pub struct ConsentTextError;

impl ConsentTextError {
    /// Who must act on it.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::BadInput
    }
}

impl fmt::Display for Consent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0.to_bytes()))
    }
}

impl FromStr for Consent {
    type Err = ConsentTextError;

    fn from_str(text: &str) -> Result<Self, ConsentTextError> {
        signature(text.as_bytes()).map(Self).ok_or(ConsentTextError)
    }
}

impl SignKey {
    pub(crate) fn consent(&self, statement: &str) -> Consent {
        Consent(self.0.sign(&message("consent", statement.as_bytes())))
    }
}

impl TrustKey {
    pub(crate) fn agreed(&self, statement: &str, consent: &Consent) -> bool {
        self.0.verify_strict(&message("consent", statement.as_bytes()), &consent.0).is_ok()
    }
}

/// The key that has signed a record of `format`, trusted or not; `None` if it has no signature that fits it.
pub fn signed_by(format: &str, record: &[u8]) -> Option<TrustKey> {
    signer(format, record, &[named_signer(record)?]).ok()
}

/// The key that a record says has signed it, whether or not the signature fits.
pub fn named_signer(record: &[u8]) -> Option<TrustKey> {
    let (_, key, _) = split(record)?;
    std::str::from_utf8(key).ok()?.parse().ok()
}

/// Whether a record ends with a signature, whoever made it and whether or not it fits.
pub fn is_signed(record: &[u8]) -> bool {
    split(record).is_some()
}

/// What is signed, the digits of the key, and those of the signature.
fn split(record: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let rest = record.strip_suffix(END.as_bytes())?;
    let (rest, value) = rest.split_at_checked(rest.len().checked_sub(VALUE_DIGITS)?)?;
    let rest = rest.strip_suffix(BEFORE_VALUE.as_bytes())?;
    let (rest, key) = rest.split_at_checked(rest.len().checked_sub(KEY_DIGITS)?)?;
    Some((rest.strip_suffix(BEFORE_KEY.as_bytes())?, key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &[u8] = br#"{"format":"f","version":7}"#;

    #[test]
    fn a_signed_record_is_trusted_by_whoever_has_the_key() {
        let key = SignKey::generate();
        let signed = key.sign("f", RECORD.to_vec());
        assert_eq!(signed.len(), RECORD.len() + 230);
        assert_eq!(signer("f", &signed, &[key.public()]), Ok(key.public()));
        assert_eq!(signed_by("f", &signed), Some(key.public()));
        assert_eq!(signed_by("f", RECORD), None);
        let value: serde_json::Value = serde_json::from_slice(&signed).unwrap();
        assert_eq!(value["version"], 7);
        let again: SignKey = key.to_secret_text().parse().unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(key.public().to_string().parse(), Ok(key.public()));
        assert!(!format!("{key:?}").contains(&key.to_secret_text()));
    }

    #[test]
    fn every_altered_byte_and_every_other_kind_or_key_is_distrusted() {
        let key = SignKey::generate();
        let signed = key.sign("f", RECORD.to_vec());
        for at in 0..signed.len() {
            let mut altered = signed.clone();
            altered[at] ^= 1;
            assert!(signer("f", &altered, &[key.public()]).is_err(), "byte {at}");
            assert_eq!(signed_by("f", &altered), None, "byte {at}");
        }
        let mut altered = signed.clone();
        altered[2] ^= 1;
        assert_eq!(named_signer(&altered), Some(key.public()));
        assert_eq!(named_signer(RECORD), None);
        assert!(signer("g", &signed, &[key.public()]).is_err());
        assert!(signer("f", &signed, &[SignKey::generate().public()]).is_err());
        assert!(signer("f", RECORD, &[key.public()]).is_err());
        assert!(signer("f", b"", &[key.public()]).is_err());
    }
}
