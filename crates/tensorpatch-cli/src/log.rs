//! The log on standard error: a warning that was given is not given again for a while.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use crate::screen::{WARNING, styled};
use crate::terminal::shown;

/// How long a warning is not repeated: a follower runs for months.
const SILENCE: Duration = Duration::from_secs(3600);
/// How a line of a warning is marked, behind its time.
const MARK: &str = " WARN ";
/// More warnings than this are not remembered.
const MOST: usize = 1000;

/// Writes lines to standard error, without the warnings that were given lately.
#[derive(Debug, Clone, Default)]
pub(crate) struct Once {
    given: Arc<Mutex<HashMap<String, Instant>>>,
}

impl Once {
    fn is_new(&self, line: &str, now: Instant) -> bool {
        let Some((_, warning)) = line.split_once(MARK) else { return true };
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if given.get(warning).is_some_and(|given| now.saturating_duration_since(*given) < SILENCE) {
            return false;
        }
        if given.len() >= MOST {
            given.clear();
        }
        given.insert(warning.to_owned(), now);
        true
    }
}

impl Write for Once {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        if self.is_new(&text, Instant::now()) {
            let text = text.strip_suffix('\n').unwrap_or(&text);
            match text.split_once(MARK) {
                // To whoever reads it as it comes, when it was is no news.
                Some((_, warning)) if io::stderr().is_terminal() => {
                    let text = format!("{} {}\n", styled(WARNING, "warning:"), shown(warning));
                    anstream::stderr().write_all(text.as_bytes())?;
                }
                _ => io::stderr().write_all((shown(text).into_owned() + "\n").as_bytes())?,
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for Once {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_given_once_an_hour_and_other_lines_always() {
        let (log, start) = (Once::default(), Instant::now());
        assert!(log.is_new("10:00  WARN the store fails", start));
        assert!(!log.is_new("10:01  WARN the store fails", start + Duration::from_secs(60)));
        assert!(log.is_new("10:01  WARN another thing", start));
        assert!(log.is_new("11:00  WARN the store fails", start + SILENCE));
        for _ in 0..2 {
            assert!(log.is_new("10:00  INFO downloaded", start));
        }
    }
}
