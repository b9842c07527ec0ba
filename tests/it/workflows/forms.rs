//! Forms as programs and browsers send them, and bodies that are none.

use std::fs;
use std::process::Command;

use super::upload::{site, stored};
use crate::support::directory::Directory;
use crate::support::http::Connection;
use crate::support::package::{head, package, package_of, upload_as};
use crate::support::program::Process;

/// Whether the version in question was kept as these bytes.
fn expect_kept(site: &crate::tenants::site::Site, key: &str, version: &str, bytes: &[u8]) {
    let path = format!("/tenants/acme/workflows/a/{version}/package");
    assert!(site.server.get(&path, Some(key)).expect_status(200).body == bytes);
}

#[test]
fn programs_upload_in_their_own_ways() {
    let (site, key) = site();
    let directory = Directory::new();
    let url = format!("http://{}/tenants/acme/workflows", site.server.address);
    let curl =
        |arguments: &str| format!("curl -sS --fail-with-body -H \"Authorization: Bearer $KEY\" {arguments}");
    let client = "import sys, os, http.client\n\
                  address, path = os.environ['URL'][7:].split('/', 1)\n\
                  file = open(os.environ['FILE'], 'rb')\n\
                  headers = {'Authorization': 'Bearer ' + os.environ['KEY'], 'Content-Type': 'application/gzip'}\n\
                  connection = http.client.HTTPConnection(address)\n";
    let commands = [
        curl("-F file=@$FILE $URL"),
        curl("-F a=b -F \"file=@$FILE;type=application/gzip;filename=x y\\\".tgz\" -F c=d $URL"),
        curl("-F \"file=<$FILE\" $URL"),
        curl("-H Expect: -F file=@$FILE $URL"),
        curl("--http1.0 -F file=@$FILE $URL"),
        curl("-H 'Transfer-Encoding: chunked' -F file=@$FILE $URL"),
        curl("-X POST -H 'Content-Type: application/gzip' -T $FILE $URL"),
        curl("-X POST -T $FILE $URL"),
        curl("-X POST -H 'Content-Type: application/x-gzip' -T - $URL < $FILE"),
        curl("-H 'Content-Type: application/octet-stream' --data-binary @$FILE $URL"),
        format!("python3 -c \"{client}connection.request('POST', '/' + path, file, headers)\nsys.exit(connection.getresponse().status != 201)\""),
        format!("python3 -c \"{client}connection.request('POST', '/' + path, iter([b'', file.read()]), headers, encode_chunked=True)\nsys.exit(connection.getresponse().status != 201)\"").replace("headers = {", "headers = {'Transfer-Encoding': 'chunked', "),
        "python3 -c \"import os, requests\nfrom os import environ as e\n\
         r = requests.post(e['URL'], headers={'Authorization': 'Bearer ' + e['KEY']}, files={'file': open(e['FILE'], 'rb')})\n\
         r.raise_for_status()\" 2>&1"
            .to_owned(),
    ];
    let has_requests =
        Command::new("python3").args(["-c", "import requests"]).output().unwrap().status.success();
    for (number, command) in commands.iter().enumerate() {
        if command.contains("requests") && !has_requests {
            eprintln!("python-requests is not here; its form is in `forms_of_every_style`");
            continue;
        }
        let version = format!("{number}.0.0");
        let bytes = package_of("a", &version, 100_000);
        let file = directory.path().join("package.tar.gz");
        fs::write(&file, &bytes).unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).env("KEY", &key).env("URL", &url).env("FILE", &file);
        let ended = Process::start(shell).ended();
        assert!(ended.status.success(), "{command}\n{ended:#?}");
        expect_kept(&site, &key, &version, &bytes);
    }
}

#[test]
fn forms_of_every_style() {
    let (site, key) = site();
    let disposition = "Content-Disposition: form-data; name=\"file\"";
    for (number, (boundary, quoted, before, header, after)) in [
        (
            "----WebKitFormBoundary7MA4YWxkTrZu0gW",
            false,
            "",
            "; filename=\"a b.tar.gz\"\r\nContent-Type: application/gzip",
            "\r\n",
        ),
        (
            "---------------------------974767299852498929531610575",
            false,
            "",
            "; filename=\"a.tar.gz\"\r\nContent-Type: application/x-gzip",
            "\r\n",
        ),
        ("0123456789abcdef0123456789abcdef", false, "", "; filename=\"a.tar.gz\"", "\r\n"),
        ("=_a (b) 'c', d:e?f", true, "a preamble\r\n--=_a\r\n", "", "an epilogue\r\n--\r\n"),
        ("x", false, "", "", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let version = format!("{number}.0.0");
        let bytes = package_of("a", &version, 80_000);
        let field = |name: &str| {
            format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n1\r\n")
        };
        let body = [
            format!("{before}{}", if before.is_empty() { "" } else { "\r\n" }).as_bytes(),
            field("first").as_bytes(),
            format!("--{boundary}\r\n{disposition}{header}\r\n\r\n").as_bytes(),
            &bytes,
            format!("\r\n{}--{boundary}--{after}", field("last")).as_bytes(),
        ]
        .concat();
        let content_type = match quoted {
            true => format!("multipart/form-data; boundary=\"{boundary}\""),
            false => format!("multipart/form-data; boundary={boundary}"),
        };
        upload_as(site.server.address, "acme", &key, &content_type, &body).expect_status(201);
        expect_kept(&site, &key, &version, &bytes);
        // And in chunks of which none ends where a line does.
        let mut connection = Connection::open(site.server.address);
        let fields = format!("Content-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n");
        connection.send(head("acme", &key, &fields).as_bytes());
        for chunk in body.chunks(997) {
            connection.send(format!("{:x}\r\n", chunk.len()).as_bytes());
            connection.send(chunk);
            connection.send(b"\r\n");
        }
        connection.send(b"0\r\n\r\n");
        connection.receive("POST").expect_status(200);
    }
}

#[test]
fn what_is_no_upload_is_told_why() {
    let (site, key) = site();
    let form = "multipart/form-data; boundary=b";
    let part = |name: &str, content: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{content}\r\n--b--\r\n")
    };
    let no_file = "no 'file' field in multipart request";
    let empty = "empty package file";
    let unsupported = "expected Content-Type: multipart/form-data or application/gzip";
    let malformed = |what: &str| format!("the multipart request is malformed: {what}");
    for (content_type, body, status, error) in [
        (form, String::new(), 400, no_file),
        (form, part("other", "x"), 400, no_file),
        (form, part("file", ""), 400, empty),
        ("application/gzip", String::new(), 400, empty),
        (
            form,
            part("file", "x").replace("--b--\r\n", ""),
            400,
            &malformed("it ends before its closing boundary"),
        ),
        (
            form,
            part("other", "").replace("--b--\r\n", "").repeat(100) + &part("file", "x"),
            400,
            &malformed("it has more than 100 parts"),
        ),
        ("multipart/form-data", part("file", "x"), 400, &malformed("its Content-Type names no boundary")),
        ("application/json", "{}".to_owned(), 415, unsupported),
        ("application/x-www-form-urlencoded", "file=x".to_owned(), 415, unsupported),
        ("multipart/mixed; boundary=b", part("file", "x"), 415, unsupported),
        ("", "x".to_owned(), 415, unsupported),
    ] {
        let answer = upload_as(site.server.address, "acme", &key, content_type, body.as_bytes());
        assert_eq!((answer.status, answer.error().as_str()), (status, error), "{content_type} {body}");
    }
    let mut connection = Connection::open(site.server.address);
    let coded = "Content-Type: application/x-tar\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n";
    connection.send(format!("{}x", head("acme", &key, coded)).as_bytes());
    assert_eq!(connection.receive("POST").expect_status(415).header("Accept-Encoding"), Some("identity"));
    assert_eq!(stored(&site), (0, 0));
    // The connection goes on after an upload, whatever came of it.
    let bytes = package("a", "1.0.0");
    for status in [400, 201, 200] {
        let sent: &[u8] = if status == 400 { b"" } else { &bytes };
        let fields = format!("Content-Length: {}\r\n", sent.len());
        connection.send(head("acme", &key, &fields).as_bytes());
        connection.send(sent);
        connection.receive("POST").expect_status(status);
    }
}
