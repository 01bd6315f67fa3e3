//! The manual's pages: the one list of them. A page is a file of its name in `src/manual/en` and in `src/manual/ja`.
//!
//! In and out: nothing; `src/manual/pack.rs` reads this list as the program does.

/// A page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its file's name without `.md`, its name behind `help`, and its address below `/help/`.
    pub name: &'static str,
    /// What it is about, in English and in Japanese.
    pub about: [&'static str; 2],
}

/// What ends a page where the rest is for those who have the sources before them.
pub const END: &str = "<!-- What follows is for readers of the sources: it is not in the program. -->";

const fn subject(name: &'static str, english: &'static str, japanese: &'static str) -> Subject {
    Subject { name, about: [english, japanese] }
}

/// All of them, in the order in which they are read.
pub const SUBJECTS: &[Subject] = &[
    subject("start", "the first request, and how to stop", "最初のリクエストと停止のしかた"),
    subject("clients", "base URL, X-User-ID, and what is changed on the way", "ベース URL、X-User-ID、変更される内容"),
    subject("configuration", "every setting, and secrets from files", "すべての設定と、秘密の値のファイル"),
    subject("keys", "client keys, and who may see what", "クライアントキーと、閲覧できる範囲"),
    subject("limits", "limits, budgets and teams, and who is told of them", "制限、予算、チーム、予算の通知"),
    subject("usage", "who used what: /usage, the command and the page", "使用量: /usage、コマンド、ページ"),
    subject("counting", "what is counted, how far to trust it, what it costs", "数えるもの、その信頼性、費用の計算"),
    subject("reconcile", "held against OpenAI's own books", "OpenAI の帳簿との照合"),
    subject("durability", "what the ledger promises", "台帳が約束すること"),
    subject("metrics", "Prometheus, Grafana, alerts and health", "Prometheus、Grafana、アラート、死活監視"),
    subject("influxdb", "the export of records", "記録の書き出し"),
    subject("fleet", "several proxies that share one PostgreSQL", "1 つの PostgreSQL を共有する複数のプロキシ"),
    subject("log", "the lines on stderr", "標準エラー出力の行"),
    subject("tls", "HTTPS for clients", "クライアントとの HTTPS"),
    subject("networks", "behind nginx or Caddy, and through a proxy to the target", "手前のサーバーと、外への経路"),
    subject("systemd", "the static binary, services and containers", "静的なバイナリ、サービス、コンテナ"),
    subject("upgrade", "backup, restore, upgrade", "バックアップ、復元、更新"),
    subject("security", "what is open, what a key opens, web pages", "公開される範囲、キーで使えるもの、Web ページ"),
    subject("errors", "the proxy's own errors, code by code", "プロキシ自身のエラーの一覧"),
    subject("figures", "what it costs beside nginx and haproxy", "nginx、haproxy と比べた測定値"),
    subject("internals", "how it is built", "しくみ"),
];
