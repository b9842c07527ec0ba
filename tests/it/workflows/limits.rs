//! How large a package may be, and all packages of a tenant together.

use super::upload::{site, stored};
use crate::support::http::Connection;
use crate::support::package::{head, manifest, package, package_of, upload, upload_as};
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
        let too_large = format!("the package is larger than {limit} bytes (--max-package-size)");
        for (answer, status) in answers.into_iter().zip([status, if status == 201 { 200 } else { status }]) {
            let answer = answer.expect_status(status);
            assert!(status != 413 || answer.error() == too_large);
        }
        // What is far too large is not even received, however it would come.
        let form = "multipart/form-data; boundary=b";
        let too_large_form = format!("{too_large}, or the rest of its form than 65536");
        for (content_type, most, expected) in
            [("application/gzip", limit, &too_large), (form, limit + 65_536, &too_large_form)]
        {
            let length = format!("Content-Length: {}\r\nExpect: 100-continue", most + 1);
            for (framing, chunk) in
                [(&*length, String::new()), ("Transfer-Encoding: chunked", format!("{:x}\r\n", most + 1))]
            {
                let mut connection = Connection::open(address);
                let fields = format!("Content-Type: {content_type}\r\n{framing}\r\n");
                connection.send(format!("{}{chunk}", head("acme", &key, &fields)).as_bytes());
                assert_eq!(connection.receive("POST").expect_status(413).error(), *expected, "{framing}");
            }
        }
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
    // The manifest is kept beside the archive, and counts as well.
    let kept = |package: &[u8]| package.len() + manifest("a", "1.0.0").len();
    limit(kept(&one) + kept(&two) - 1);
    let expected = format!(
        "the packages of tenant 'acme' have {} bytes together with their manifests, this one has {}, and {} are allowed \
         (max_package_bytes)",
        kept(&one),
        kept(&two),
        kept(&one) + kept(&two) - 1
    );
    assert_eq!(upload(address, "acme", &key, &two).expect_status(413).error(), expected);
    assert_eq!(stored(&site), (1, 1));
    // What is there already takes no more; what is deleted takes nothing.
    upload(address, "acme", &key, &one).expect_status(200);
    site.server.delete("/tenants/acme/workflows/a/1.0.0", &key).expect_status(200);
    upload(address, "acme", &key, &two).expect_status(201);
    upload(address, "acme", &key, &one).expect_status(413);
    limit(kept(&one) + kept(&two));
    upload(address, "acme", &key, &one).expect_status(201);
    site.tenant("other");
    let other = site.key_of("other", "write").key().to_owned();
    upload(address, "other", &other, &one).expect_status(201);
}

#[test]
fn a_tenant_has_so_many_versions() {
    let (site, key) = site();
    site.database.execute(
        "INSERT INTO cloacina_packages
             (id, tenant, name, version, precedence, is_pre_release, manifest, tasks, sha256, size, deleted_at, has_pieces)
         SELECT gen_random_uuid(), cloacina_tenants.id, 'n', number || '.0.0', '', false, '', '{}', '', 1, now(), false
         FROM cloacina_tenants, generate_series(1, 99999) AS number",
    );
    let last = package("a", "1.0.0");
    upload(site.server.address, "acme", &key, &last).expect_status(201);
    let error = "tenant 'acme' has 100000 versions of workflows, deleted ones included, and may have no more";
    let further = upload(site.server.address, "acme", &key, &package("a", "2.0.0"));
    assert_eq!(further.expect_status(409).error(), error);
    upload(site.server.address, "acme", &key, &last).expect_status(200);
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
