//! How large a package may be, and all packages of a tenant together.

use super::upload::{site, stored};
use crate::support::http::Connection;
use crate::support::package::{head, package, package_of, upload, upload_as};
use crate::support::postgres::Database;
use crate::support::program::Process;
use crate::tenants::site::Site;

fn form(bytes: &[u8]) -> Vec<u8> {
    let header = b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.tar.gz\"\r\n\r\n";
    [&header[..], bytes, b"\r\n--b--\r\n"].concat()
}

#[test]
fn a_package_may_have_so_many_bytes_in_either_form() {
    let bytes = package_of("a", "1.0.0", 100_000);
    for (limit, status) in [(bytes.len(), 201), (bytes.len() - 1, 413)] {
        let site = Site::start_with(Database::new(), ["--max-package-size", &limit.to_string()]);
        site.tenant("acme");
        let key = site.key_of("acme", "write").key().to_owned();
        let address = site.server.address;
        let answers = [
            upload(address, "acme", &key, &bytes),
            upload_as(address, "acme", &key, "multipart/form-data; boundary=b", &form(&bytes)),
        ];
        for (answer, status) in answers.into_iter().zip([status, if status == 201 { 200 } else { status }]) {
            let answer = answer.expect_status(status);
            if status == 413 {
                let expected = format!(
                    "the package has {} bytes, and may have {limit} (--max-package-size)",
                    bytes.len()
                );
                assert_eq!(answer.error(), expected);
            }
        }
        // What is far too large is not even received.
        let mut connection = Connection::open(address);
        let fields = format!("Content-Length: {}\r\nExpect: 100-continue\r\n", limit + 65_537);
        connection.send(head("acme", &key, &fields).as_bytes());
        let expected = format!("request body is larger than {} bytes", limit + 65_536);
        assert_eq!(connection.receive("POST").expect_status(413).error(), expected);
        assert_eq!(stored(&site).0, i64::from(status == 201));
    }
}

#[test]
fn the_packages_of_a_tenant_together_have_a_limit() {
    let (site, key) = site();
    let address = site.server.address;
    let (one, two) = (package_of("a", "1.0.0", 10_000), package_of("a", "2.0.0", 10_000));
    upload(address, "acme", &key, &one).expect_status(201);
    let limit = |bytes: usize| {
        let body = format!("{{\"max_package_bytes\":{bytes}}}");
        let request = crate::support::http::request("PATCH", "/tenants/acme", Some(&site.admin), Some(&body));
        crate::support::http::exchange(address, &request).expect_status(200);
    };
    limit(one.len() + two.len() - 1);
    let expected = format!(
        "the packages of tenant 'acme' have {} bytes together, this one has {}, and {} are allowed (max_package_bytes)",
        one.len(),
        two.len(),
        one.len() + two.len() - 1
    );
    assert_eq!(upload(address, "acme", &key, &two).expect_status(413).error(), expected);
    assert_eq!(stored(&site), (1, 1));
    // What is there already takes no more; what is deleted takes nothing.
    upload(address, "acme", &key, &one).expect_status(200);
    site.server.delete("/tenants/acme/workflows/a/1.0.0", &key).expect_status(200);
    upload(address, "acme", &key, &two).expect_status(201);
    upload(address, "acme", &key, &one).expect_status(413);
    limit(one.len() + two.len());
    upload(address, "acme", &key, &one).expect_status(201);
    site.tenant("other");
    let other = site.key_of("other", "write").key().to_owned();
    upload(address, "other", &other, &one).expect_status(201);
}

#[test]
fn the_setting_is_one_as_all_others() {
    for (value, is_right) in
        [("1K", true), ("1024", true), ("1G", true), ("1023", false), ("2G", false), ("100MB", false)]
    {
        let outcome = crate::scratch::Scratch::new().run(&["config", "set", "max_package_size", value]);
        assert_eq!(outcome.code, Some(if is_right { 0 } else { 2 }), "{value}: {outcome:?}");
        if !is_right {
            assert!(outcome.stderr.contains("must be a size from 1K to 1G"), "{}", outcome.stderr);
        }
    }
    let help = Process::start(crate::support::program::cloacinactl(["serve", "--help"])).ended();
    assert!(help.stdout.contains("--max-package-size SIZE"), "{}", help.stdout);
    let (site, key) = site();
    upload(site.server.address, "acme", &key, &package("a", "1.0.0")).expect_status(201);
}
