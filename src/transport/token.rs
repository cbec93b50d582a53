//! Join tokens: one line that a person carries from one machine to another.
//!
//! `infinit1_` and base64url without padding: letters, digits, `-` and `_`, nothing that a shell would touch. Inside:
//!
//! ```text
//! offset size
//!      0    2  length of the body, little-endian
//!      2    4  CRC32C of the length and the body: a mistyped or cut token is told from a forged one
//!      6       the body: network name, invitation, one-off private key, nodes and their addresses (postcard)
//! ```
//!
//! The token is a secret until its invitation is used up or has expired: whoever holds it can join.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use crate::base::address::Address;
use crate::base::id::{NetworkId, NodeId};
use crate::transport::identity::TokenKey;
use crate::transport::passport::{Invitation, PassportError};

const PREFIX: &str = "infinit1_";
const HEAD_BYTES: usize = 6;
/// The longest body: a chain of invitations, eight nodes with eight addresses each.
const BODY_BYTES_MAX: usize = 4096;
/// The most nodes a token names: enough that one of them is up.
pub const CONTACTS_MAX: usize = 8;
/// The most addresses a token names for one node.
pub const CONTACT_ADDRESSES_MAX: usize = 8;
/// The longest name of a network, in bytes.
pub const NETWORK_NAME_BYTES_MAX: usize = 64;

/// A node to dial for joining.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    pub node: NodeId,
    /// Where its data plane listens.
    pub addresses: Vec<Address>,
}

/// Everything a new node needs to join. `Display` gives the secret line; `Debug` does not.
#[derive(Clone)]
pub struct Token {
    pub network_name: String,
    pub invitation: Invitation,
    pub key: TokenKey,
    pub contacts: Vec<Contact>,
}

#[derive(Serialize, Deserialize)]
struct Body {
    network_name: String,
    invitation: Invitation,
    secret: [u8; 32],
    contacts: Vec<Contact>,
}

impl Token {
    /// A token for an invitation; refuses what could not be read back.
    pub fn new(
        network_name: String,
        invitation: Invitation,
        key: TokenKey,
        contacts: Vec<Contact>,
    ) -> Result<Token, TokenError> {
        let token = Token { network_name, invitation, key, contacts };
        token.check()?;
        Ok(token)
    }

    pub fn network(&self) -> NetworkId {
        self.invitation.terms.network
    }

    /// Checks the invitation's chain and that one can still join with it at `now` (seconds since 1970).
    pub fn verify(&self, now: u64) -> Result<(), PassportError> {
        self.invitation.verify_open(self.network(), now)
    }

    fn check(&self) -> Result<(), TokenError> {
        let name_fits = !self.network_name.is_empty() && self.network_name.len() <= NETWORK_NAME_BYTES_MAX;
        let printable = !self.network_name.chars().any(|c| c.is_control() || c == '/');
        let contacts_fit = self.contacts.len() <= CONTACTS_MAX
            && self.contacts.iter().all(|contact| contact.addresses.len() <= CONTACT_ADDRESSES_MAX);
        if !(name_fits && printable && contacts_fit) {
            return Err(TokenError::Contents);
        }
        if self.key.public() != self.invitation.terms.key {
            return Err(TokenError::Tampered);
        }
        Ok(())
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = Body {
            network_name: self.network_name.clone(),
            invitation: self.invitation.clone(),
            secret: self.key.secret(),
            contacts: self.contacts.clone(),
        };
        let body = postcard::to_stdvec(&body).map_err(|_| fmt::Error)?;
        let length = u16::try_from(body.len()).map_err(|_| fmt::Error)?.to_le_bytes();
        let crc = checksum(length, &body).to_le_bytes();
        let raw = [&length[..], &crc[..], &body[..]].concat();
        write!(f, "{PREFIX}{}", BASE64URL_NOPAD.encode(&raw))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("network_name", &self.network_name)
            .field("invitation", &self.invitation.terms.id)
            .field("contacts", &self.contacts)
            .finish_non_exhaustive()
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Token, TokenError> {
        let text = text.trim();
        let Some(encoded) = text.strip_prefix(PREFIX) else {
            let newer = text.strip_prefix("infinit").and_then(|rest| rest.split_once('_'));
            let version = newer.and_then(|(version, _)| version.parse::<u32>().ok());
            return Err(version.map_or(TokenError::NotAToken, TokenError::Version));
        };
        if encoded.len() > BASE64URL_NOPAD.encode_len(HEAD_BYTES + BODY_BYTES_MAX) {
            return Err(TokenError::Mistyped);
        }
        let raw = match BASE64URL_NOPAD.decode(encoded.as_bytes()) {
            Ok(raw) => raw,
            Err(_) => return Err(cut_or_mistyped(encoded)),
        };
        let body = unseal(&raw)?;
        let Ok((body, [])) = postcard::take_from_bytes::<Body>(body) else { return Err(TokenError::Contents) };
        let key = TokenKey::from_secret(body.secret).ok_or(TokenError::Contents)?;
        Token::new(body.network_name, body.invitation, key, body.contacts)
    }
}

/// The body of a token, if length and checksum are right.
fn unseal(raw: &[u8]) -> Result<&[u8], TokenError> {
    let Some((head, body)) = raw.split_first_chunk::<HEAD_BYTES>() else { return Err(TokenError::Cut) };
    let length = [head[0], head[1]];
    if body.len() < usize::from(u16::from_le_bytes(length)) {
        return Err(TokenError::Cut);
    }
    let crc = u32::from_le_bytes([head[2], head[3], head[4], head[5]]);
    if body.len() > usize::from(u16::from_le_bytes(length)) || checksum(length, body) != crc {
        return Err(TokenError::Mistyped);
    }
    Ok(body)
}

/// Text that is no base64: cut in the middle of a byte, if all whole groups read and are too few.
fn cut_or_mistyped(encoded: &str) -> TokenError {
    let whole = encoded.len() / 4 * 4;
    match encoded.get(..whole).map(|groups| BASE64URL_NOPAD.decode(groups.as_bytes())) {
        Some(Ok(raw)) if unseal(&raw) == Err(TokenError::Cut) && encoded.is_ascii() => TokenError::Cut,
        _ => TokenError::Mistyped,
    }
}

fn checksum(length: [u8; 2], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length), body)
}

/// Why a line is no usable token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// It does not begin as a token does.
    NotAToken,
    /// Made by another version of Infinit.
    Version(u32),
    /// The end is missing.
    Cut,
    /// A character is wrong, missing or too many.
    Mistyped,
    /// Its parts do not belong together.
    Tampered,
    /// It reads, but holds what no token may hold.
    Contents,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenError::NotAToken => write!(f, "this is no token (one begins with {PREFIX})"),
            TokenError::Version(version) => write!(f, "the token is of version {version}, made by another Infinit"),
            TokenError::Cut => f.write_str("the token is cut short: its end is missing"),
            TokenError::Mistyped => f.write_str("the token is mistyped: its checksum does not match"),
            TokenError::Tampered => f.write_str("the token was tampered with: its key is not the invitation's"),
            TokenError::Contents => f.write_str("the token holds what no token may hold"),
        }
    }
}

impl std::error::Error for TokenError {}

/// Fuzz entry: reads any bytes as a token.
pub fn fuzz_token(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    // Only panics and endless work count as findings; most inputs are refused.
    let _ = text.parse::<Token>();
    let raw = [&(bytes.len().min(0xffff) as u16).to_le_bytes()[..], &[0; 4], bytes].concat();
    let _ = unseal(&raw);
    let _ = postcard::take_from_bytes::<Body>(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::identity::{NetworkKey, NodeKey};
    use crate::transport::passport::{Passport, Role};
    use proptest::prelude::*;

    const NOW: u64 = 1_795_305_600;

    fn token() -> Token {
        let (owner, key) = (NetworkKey::generate(), TokenKey::generate());
        let invitation = Invitation::by_network(&owner, Role::Storage, NOW + 60, 1, &key).unwrap();
        let addresses = vec!["192.0.2.1:7000".parse().unwrap(), "[2001:db8::1]:7000".parse().unwrap()];
        let contact = Contact { node: NodeKey::generate().node(), addresses };
        Token::new("prod".into(), invitation, key, vec![contact]).unwrap()
    }

    #[test]
    fn a_token_reads_back_from_one_shell_safe_line_and_lets_one_join() {
        let token = token();
        let line = token.to_string();
        assert!(line.starts_with(PREFIX) && line.len() < 600, "{} characters", line.len());
        assert!(line.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'));
        let read: Token = format!("  {line}\n").parse().unwrap();
        assert_eq!((&read.network_name, &read.contacts), (&token.network_name, &token.contacts));
        read.verify(NOW).unwrap();
        assert_eq!(read.verify(NOW + 60), Err(PassportError::InvitationExpired));
        let node = NodeKey::generate().node();
        let passport = Passport::by_invitation(&read.invitation, &read.key, node, NOW).unwrap();
        passport.verify_joining(token.network(), node, NOW).unwrap();
        assert!(!format!("{token:?}").contains(&data_encoding::HEXLOWER.encode(&token.key.secret())));
    }

    #[test]
    fn every_cut_and_every_wrong_character_has_its_reason() {
        let line = token().to_string();
        for end in PREFIX.len()..line.len() {
            assert_eq!(line[..end].parse::<Token>().unwrap_err(), TokenError::Cut, "cut at {end}");
        }
        for at in PREFIX.len()..line.len() {
            let mut bytes = line.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let reason = String::from_utf8(bytes).unwrap().parse::<Token>().unwrap_err();
            // A wrong character in the length itself can make the token look short.
            assert!(reason == TokenError::Mistyped || (reason == TokenError::Cut && at < PREFIX.len() + 3), "{at}");
        }
        assert_eq!(format!("{line}A").parse::<Token>().unwrap_err(), TokenError::Mistyped);
        assert_eq!("hello".parse::<Token>().unwrap_err(), TokenError::NotAToken);
        assert_eq!("infinit2_AAAA".parse::<Token>().unwrap_err(), TokenError::Version(2));
        assert_eq!("".parse::<Token>().unwrap_err(), TokenError::NotAToken);
    }

    #[test]
    fn parts_of_two_tokens_do_not_make_a_third() {
        let (mut one, other) = (token(), token());
        one.key = other.key.clone();
        assert_eq!(one.to_string().parse::<Token>().unwrap_err(), TokenError::Tampered);
        let mut renamed = token();
        renamed.invitation.terms.role = Role::Admin;
        let read: Token = renamed.to_string().parse().unwrap();
        assert_eq!(read.verify(NOW), Err(PassportError::Tampered));
        let mut named = token();
        named.network_name = "a/b".into();
        assert_eq!(named.to_string().parse::<Token>().unwrap_err(), TokenError::Contents);
    }

    proptest! {
        #[test]
        fn no_flipped_bit_is_accepted(bit in 0_usize..2400) {
            let line = token().to_string();
            let mut raw = BASE64URL_NOPAD.decode(&line.as_bytes()[PREFIX.len()..]).unwrap();
            let bit = bit % (raw.len() * 8);
            raw[bit / 8] ^= 1 << (bit % 8);
            let bad = format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&raw));
            prop_assert!(bad.parse::<Token>().is_err());
        }

        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..1000)) {
            fuzz_token(&bytes);
        }
    }
}
