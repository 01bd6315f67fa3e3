//! What somebody reads who has just started the server on a terminal, and does not know it yet.
//!
//! In: where it listens, and its settings. Out: five lines.

use crate::local::language::Language;
use std::net::SocketAddr;
use std::path::Path;

/// Where the server is found, as a client on this machine writes it.
pub fn url(listens: SocketAddr, tls: bool) -> String {
    let scheme = if tls { "https" } else { "http" };
    // A certificate is rarely an address's.
    match listens.ip().is_unspecified() || tls && listens.ip().is_loopback() {
        true => format!("{scheme}://localhost:{}", listens.port()),
        false => format!("{scheme}://{listens}"),
    }
}

/// The lines, of a server that is found at this URL and passes requests on to `target`.
pub fn first_lines(language: Language, url: &str, target: &str, ledger: &Path) -> [String; 5] {
    let ledger = ledger.display();
    match language {
        Language::English => [
            format!("  listening  {url}, for {target}"),
            format!("  a client   export OPENAI_BASE_URL={url}/v1"),
            format!("  the page   {url}/dashboard"),
            format!("  usage      {ledger}; proxy-server usage prints it"),
            "  to stop    Ctrl-C; proxy-server help start says more".to_owned(),
        ],
        Language::Japanese => [
            format!("  待ち受け      {url}（中継先 {target}）"),
            format!("  クライアント  export OPENAI_BASE_URL={url}/v1"),
            format!("  ページ        {url}/dashboard"),
            format!("  使用量        {ledger}（proxy-server usage で表示）"),
            "  停止          Ctrl-C（詳しくは proxy-server help start）".to_owned(),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_one_that_works_here() {
        for (listens, tls, expected) in [
            ("127.0.0.1:8080", false, "http://127.0.0.1:8080"),
            ("0.0.0.0:80", false, "http://localhost:80"),
            ("[::]:443", true, "https://localhost:443"),
            ("127.0.0.1:8443", true, "https://localhost:8443"),
            ("[fd00::1]:8080", false, "http://[fd00::1]:8080"),
        ] {
            assert_eq!(url(listens.parse().unwrap(), tls), expected);
        }
    }
}
