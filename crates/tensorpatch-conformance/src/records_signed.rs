//! Signatures that fit by the bare equation and must be refused all the same: section 4.4 of `stream.md`, and
//! what RFC 8032 says of how points and numbers are written.

use ed25519_dalek::SigningKey;
use sha2::{Digest, Sha512};

use crate::records::{Maker, first, hex, key, public, signed, withstanding};

/// A number below 2^256, the lowest 64 bits first.
type Number = [u64; 4];

/// The order of the base point.
const ORDER: Number = [0x5812_631a_5cf5_d3ed, 0x14de_f9de_a2f7_9cd6, 0, 1 << 60];
/// The neutral element, which is of order 1, and another way to write it: its y is 1, or 2^255 - 19 more.
const NEUTRAL: [u8; 32] = {
    let mut point = [0; 32];
    point[0] = 1;
    point
};
const NEUTRAL_OTHERWISE: [u8; 32] = {
    let mut point = [0xff; 32];
    (point[0], point[31]) = (0xee, 0x7f);
    point
};

pub(crate) fn curve(maker: &mut Maker) {
    let ours = key(1);
    let text = withstanding(&first().to_string());
    let mut add = |id: &str, comment: &str, record: String, trusted: String| {
        let (id, record) = (format!("signature-{id}"), record.into_bytes());
        maker.add(false, &id, "commit", "4.4", comment, record);
        maker.trusting_digits(vec![trusted]);
    };
    let good = signed("commit", &text, &ours);
    let (start, digits) = good.split_at(good.len() - 3 - 64);
    let number = read(&digits[..64]);
    let other = format!("{start}{}{}", hex(&bytes(sum(number, ORDER))), &digits[64..]);
    let comment = "The second half of the signature is the order of the group more than it must be";
    add("s-over", comment, other, public(&ours));
    let comment = "A signature whose point is of small order, and which fits by the equation";
    add("small-point", comment, small_point(&text, &ours), public(&ours));
    for (id, point, comment) in [
        ("small-key", NEUTRAL, "A public key of small order, for which the signature fits every record"),
        ("small-key-otherwise", NEUTRAL_OTHERWISE, "The same key with a y that is not below 2^255 - 19"),
    ] {
        add(id, comment, with_signature(&text, &point, &NEUTRAL, [0; 4]), hex(&point));
    }
}

/// The record with this key and this signature.
fn with_signature(record: &str, key: &[u8; 32], point: &[u8; 32], number: Number) -> String {
    let open = record.strip_suffix('}').expect("an object");
    let (key, point, number) = (hex(key), hex(point), hex(&bytes(number)));
    format!(r#"{open},"signature":{{"ed25519":"{key}","value":"{point}{number}"}}}}"#)
}

/// For the neutral element as the point of a signature, the number is the secret one times the hash.
fn small_point(record: &str, ours: &SigningKey) -> String {
    let open = record.strip_suffix('}').expect("an object");
    let public = ours.verifying_key().to_bytes();
    let mut hash = Sha512::new();
    for part in [&NEUTRAL[..], &public, b"tensorpatch.v1.tensorpatch-commit\0", open.as_bytes()] {
        hash.update(part);
    }
    let mut secret = ours.to_scalar_bytes();
    // RFC 8032, section 5.1.5: multiples of eight, and the highest bit but one is set.
    secret[0] &= 248;
    secret[31] = secret[31] & 127 | 64;
    let secret = product(&secret, [1, 0, 0, 0]);
    with_signature(record, &public, &NEUTRAL, product(&hash.finalize(), secret))
}

fn sum(a: Number, b: Number) -> Number {
    let mut carry = 0;
    std::array::from_fn(|limb| {
        let total = u128::from(a[limb]) + u128::from(b[limb]) + carry;
        carry = total >> 64;
        total as u64
    })
}

/// A number below twice the order, without the order.
fn reduced(number: Number) -> Number {
    if number.iter().rev().lt(ORDER.iter().rev()) {
        return number;
    }
    let mut borrow = 0;
    std::array::from_fn(|limb| {
        let rest = i128::from(number[limb]) - i128::from(ORDER[limb]) - borrow;
        borrow = i128::from(rest < 0);
        rest as u64
    })
}

/// A little-endian number times one below the order, modulo the order.
fn product(bytes: &[u8], number: Number) -> Number {
    let bits = bytes.iter().rev().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1));
    bits.fold([0; 4], |total, bit| {
        let total = reduced(sum(total, total));
        if bit { reduced(sum(total, number)) } else { total }
    })
}

fn bytes(number: Number) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (limb, out) in number.iter().zip(bytes.chunks_mut(8)) {
        out.copy_from_slice(&limb.to_le_bytes());
    }
    bytes
}

fn read(digits: &str) -> Number {
    let byte = |at: usize| u64::from_str_radix(&digits[2 * at..2 * at + 2], 16).expect("digits");
    std::array::from_fn(|limb| (0..8).rev().fold(0, |number, at| number << 8 | byte(8 * limb + at)))
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signature, Verifier, VerifyingKey};

    use super::*;

    /// Without the checks, they would be signatures.
    #[test]
    fn what_the_checks_refuse_fits_by_the_equation() {
        let text = withstanding(&first().to_string());
        let open = text.strip_suffix('}').unwrap();
        let message = [b"tensorpatch.v1.tensorpatch-commit\0", open.as_bytes()].concat();
        let fits = |key: &[u8; 32], record: &str| {
            let digits = &record[record.len() - 3 - 128..record.len() - 3];
            let byte = |at: usize| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap();
            let signature = Signature::from_bytes(&std::array::from_fn(byte));
            let key = VerifyingKey::from_bytes(key).unwrap();
            (key.verify(&message, &signature).is_ok(), key.verify_strict(&message, &signature).is_ok())
        };
        let ours = key(1);
        let public = ours.verifying_key().to_bytes();
        assert_eq!(fits(&public, &small_point(&text, &ours)), (true, false));
        assert_eq!(fits(&NEUTRAL, &with_signature(&text, &NEUTRAL, &NEUTRAL, [0; 4])), (true, false));
        assert_eq!(fits(&public, &signed("commit", &text, &ours)), (true, true));
    }
}
