//! The page of `tensorpatch report`: figures of a stream in one file of HTML that needs nothing else.
//!
//! Each figure is a module with a function from the report to HTML. Names in a report can be anything, so
//! that all text goes through [`html::text`].

mod bytes;
mod chart;
mod distances;
mod history;
mod html;
mod late_joins;
mod layers;
mod replicas;
mod summary;

use serde::Serialize;
use tensorpatch::store::upkeep::StreamReport;

use crate::dates::date;
use html::text;

/// What every page begins with.
pub(crate) const START: &str = "<!doctype html>";
/// What the page may do: nothing but show what is in it.
const POLICY: &str = include_str!("page/policy.txt");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

/// A figure, or nothing where there is nothing to show.
type Figure = fn(&StreamReport) -> Option<String>;

const FIGURES: [Figure; 6] =
    [bytes::figure, history::figure, late_joins::figure, layers::figure, distances::figure, replicas::figure];

/// The page for the report of the stream at `url`. `data` is what the page embeds for programs.
pub(crate) fn page(url: &str, report: &StreamReport, data: &impl Serialize) -> serde_json::Result<String> {
    // Within a script element only `<` could end it.
    let data = serde_json::to_string(data)?.replace('<', "\\u003c");
    let figures: String = FIGURES.iter().filter_map(|figure| figure(report)).collect();
    let summary = summary::summary(report);
    let policy = POLICY.trim_end();
    let (url, stream, made) = (text(url), report.stream, date(report.made));
    Ok(format!(
        "{START}\n\
         <html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"{policy}\">\n\
         <link rel=\"icon\" href=\"data:,\">\n\
         <title>{url} – tensorpatch</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header>\n<h1>{url}</h1>\n<p class=\"muted\">stream <code>{stream}</code>, as it was on \
         <time>{made}</time> UTC</p>\n</header>\n<main>\n{summary}{figures}</main>\n\
         <footer class=\"muted\">tensorpatch report</footer>\n\
         <script type=\"application/json\" id=\"report\">{data}</script>\n\
         <script>\n{SCRIPT}</script>\n</body>\n</html>\n"
    ))
}
