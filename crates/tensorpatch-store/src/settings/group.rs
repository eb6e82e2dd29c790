//! How a group of settings is declared: documentation, name, type and default of each, in one place.

use std::time::Duration;

use super::units::{parse_duration, parse_size};

/// One setting of a [`Policy`](super::Policy), for programs that offer all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Setting {
    /// The name of the field, which no other group has.
    pub name: &'static str,
    /// What it is for: the documentation of the field.
    pub help: &'static str,
    /// What its value is: `TIME`, `BYTES` or `N`, a number.
    pub unit: &'static str,
}

impl Setting {
    pub(super) const fn new(name: &'static str, help: &'static str, unit: &'static str) -> Self {
        Self { name, help, unit }
    }

    /// The variable of the environment that [`Policy::from_env`](super::Policy::from_env) reads.
    pub fn variable(&self) -> String {
        format!("TENSORPATCH_{}", self.name.to_ascii_uppercase())
    }
}

/// A value as text: in the environment, on a command line and in messages.
pub(super) trait Value: Sized {
    const UNIT: &'static str;

    fn parse(text: &str) -> Result<Self, String>;
}

impl Value for u64 {
    const UNIT: &'static str = "BYTES";

    fn parse(text: &str) -> Result<Self, String> {
        match parse_size(text)? {
            0 => Err("expected at least one byte".to_owned()),
            bytes => Ok(bytes),
        }
    }
}

impl Value for u32 {
    const UNIT: &'static str = "N";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "expected a whole number".to_owned())
    }
}

impl Value for usize {
    const UNIT: &'static str = "N";

    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(0) | Err(_) => Err("expected a whole number of at least 1".to_owned()),
            Ok(number) => Ok(number),
        }
    }
}

impl Value for Duration {
    const UNIT: &'static str = "TIME";

    fn parse(text: &str) -> Result<Self, String> {
        parse_duration(text)
    }
}

/// Declares a group of settings as a struct whose fields they are.
macro_rules! settings {
    (
        $(#[doc = $about:literal])+
        pub struct $group:ident {
            $($(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:expr $(, at least $least:literal)?;)+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $group {
            $($(#[doc = $doc])+ pub $name: $type,)+
        }

        impl Default for $group {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        impl $group {
            /// The settings, in the order of the fields.
            pub(super) const SETTINGS: &'static [$crate::settings::Setting] =
                &[$($crate::settings::Setting::new(
                    stringify!($name),
                    concat!($($doc),+),
                    <$type as $crate::settings::group::Value>::UNIT,
                )),+];

            /// Sets the field of this name; `None` if there is none.
            pub(super) fn set(&mut self, name: &str, text: &str) -> Option<Result<(), String>> {
                use $crate::settings::group::Value;
                match name {
                    $(stringify!($name) => {
                        let value: Result<$type, String> = Value::parse(text);
                        $(let value = value.ok().filter(|value| *value >= $least).ok_or_else(|| {
                            format!("expected a whole number of at least {}", $least)
                        });)?
                        Some(value.map(|value| self.$name = value))
                    })+
                    _ => None,
                }
            }
        }
    };
}

pub(super) use settings;
