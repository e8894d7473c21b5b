//! A server that says on which node it runs and who asks, and those who ask it, from wherever, over either IP version.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use integration::{Host, eventually};

/// The program: HTTP at port 80.
pub(crate) const WHO: &str = r#"mkdir -p /www/cgi-bin
cat > /www/cgi-bin/who <<'END'
#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n%s %s' "$NODE" "$REMOTE_ADDR"
END
chmod +x /www/cgi-bin/who
exec httpd -f -p 80 -h /www"#;

/// What is answered at `10.99.0.1:8080` or `[2001:db8:99::1]:8080`: a node, and the asker's address.
pub(crate) fn ask(client: &Host, address: &str) -> Result<String> {
    let answer = client.get(address, "/cgi-bin/who")?;
    let (node, asker) = answer.split_once(' ').context("two words")?;
    // A server that listens for both IP versions writes IPv4 as a part of IPv6, in brackets.
    let asker: IpAddr = asker.trim_matches(['[', ']']).parse()?;
    Ok(format!("{node} {}", asker.to_canonical()))
}

/// Waits until one of these is answered.
pub(crate) fn wait_answer(client: &Host, address: &str, expected: &[String]) -> Result<()> {
    eventually(&format!("{address} answers"), || {
        let answer = ask(client, address)?;
        ensure!(expected.contains(&answer), "{answer:?}, not one of {expected:?}");
        Ok(())
    })
}
