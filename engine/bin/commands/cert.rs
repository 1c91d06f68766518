//! `towline cert`: certificates for nodes and clients, and the authority that issues them. Any other authority does as
//! well, if its certificates carry the identity; this one is two files in a directory.

use crate::failure::{Exit, Failure};
use crate::output::{Format, Output, pairs};
use clap::Subcommand;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use towline::client::{CertifiedIdentity, CredentialFiles, PeerCertificate, Subject};

/// Days that an authority holds: ten years.
const AUTHORITY_DAYS: u32 = 3650;
/// Days that what it issues holds: what public authorities were last allowed in years, and two rotations in it.
const ISSUED_DAYS: u32 = 825;

const AUTHORITY_CERTIFICATE: &str = "authority.pem";
const AUTHORITY_KEY: &str = "authority-key.pem";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make an authority: DIR/authority.pem, which all believe, and DIR/authority-key.pem, which never leaves this place
    Authority(Authority),
    /// Issue a node's certificate, into DIR/node-N
    Node(Node),
    /// Issue a client's certificate, into DIR/client-NAME
    Client(Client),
    /// Tell whom a certificate names, its serial number, and until when it holds
    Show(Show),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Authority {
    /// Where; made if it is missing
    directory: PathBuf,
    /// How long it holds
    #[arg(long, value_name = "DAYS", default_value_t = AUTHORITY_DAYS, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    #[command(flatten)]
    format: Format,
}

/// What nodes and clients have in common.
#[derive(Debug, clap::Args)]
struct Issued {
    /// The authority's directory
    directory: PathBuf,
    /// The cluster
    #[arg(long, value_name = "UUID")]
    cluster: uuid::Uuid,
    /// Where to write certificate.pem, key.pem and authority.pem [default: a directory of its own in DIRECTORY]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How long it holds
    #[arg(long, value_name = "DAYS", default_value_t = ISSUED_DAYS, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Node {
    #[command(flatten)]
    issued: Issued,
    /// The node's number
    #[arg(long, value_name = "N")]
    id: u64,
    /// A name or address under which clients dial it; may be repeated
    #[arg(long, value_name = "HOST", required = true)]
    name: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Client {
    #[command(flatten)]
    issued: Issued,
    /// The client's name: letters, digits, dots, dashes, underscores
    #[arg(long, value_name = "NAME")]
    name: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The certificate (PEM)
    file: PathBuf,
    #[command(flatten)]
    format: Format,
}

impl Command {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Authority(_) => "cert authority",
            Self::Node(_) => "cert node",
            Self::Client(_) => "cert client",
            Self::Show(_) => "cert show",
        }
    }

    pub(crate) const fn speaks_json(&self) -> bool {
        match self {
            Self::Authority(args) => args.format.json,
            Self::Node(args) => args.issued.format.json,
            Self::Client(args) => args.issued.format.json,
            Self::Show(args) => args.format.json,
        }
    }
}

pub(crate) fn run(command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Authority(args) => authority(args)?,
        Command::Node(args) => {
            let names = args.name.iter().map(|name| host(name)).collect::<Result<_, _>>()?;
            // A node dials the other nodes, too.
            let purposes = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            issue(&args.issued, Subject::Node(args.id), &format!("node-{}", args.id), names, purposes)?;
        }
        Command::Client(args) => {
            let directory = format!("client-{}", args.name);
            let purposes = vec![ExtendedKeyUsagePurpose::ClientAuth];
            issue(&args.issued, Subject::Client(args.name.clone()), &directory, Vec::new(), purposes)?;
        }
        Command::Show(args) => show(&args.file, args.format)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn authority(args: &Authority) -> Result<(), Failure> {
    let mut params = params(args.days, "towline authority")?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let key_pem = key.serialize_pem();
    // Two authorities must not have one name: who looks for an issuer takes the first of that name.
    let id = params.key_identifier(&key).iter().take(4).map(|byte| format!("{byte:02x}")).collect::<String>();
    params.distinguished_name.push(DnType::CommonName, format!("towline authority {id}"));
    let certificate = CertifiedIssuer::self_signed(params, key)?.pem();
    make_directory(&args.directory)?;
    let files = [AUTHORITY_CERTIFICATE, AUTHORITY_KEY].map(|name| args.directory.join(name));
    write_new(&[(&files[0], &certificate, Readers::Anybody), (&files[1], &key_pem, Readers::OwnerAlone)])?;
    Output::new(args.format).both(
        || serde_json::json!({ "event": "authority", "certificate": files[0], "key": files[1], "days": args.days }),
        || format!("{}: give it to all\n{}: keep it here", files[0].display(), files[1].display()),
    )?;
    Ok(())
}

fn issue(
    args: &Issued,
    subject: Subject,
    directory: &str,
    mut names: Vec<SanType>,
    purposes: Vec<ExtendedKeyUsagePurpose>,
) -> Result<(), Failure> {
    let identity = CertifiedIdentity::new(*args.cluster.as_bytes(), subject);
    let identity = identity.map_err(|error| Failure::new(Exit::Usage, error))?;
    let read = |name: &str| {
        let path = args.directory.join(name);
        let text = fs::read_to_string(&path);
        text.map_err(|error| Failure::say(Exit::Usage, format!("no authority: {}: {error}", path.display())))
    };
    let authority = read(AUTHORITY_CERTIFICATE)?;
    let issuer_key = KeyPair::from_pem(&read(AUTHORITY_KEY)?)?;
    let issuer = Issuer::from_ca_cert_pem(&authority, issuer_key)?;
    let mut params = params(args.days, &identity.to_string())?;
    names.push(SanType::URI(identity.to_string().try_into()?));
    params.subject_alt_names = names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = purposes;
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    let read = PeerCertificate::read(certificate.der())?;
    let out = args.out.clone().unwrap_or_else(|| args.directory.join(directory));
    make_directory(&out)?;
    let files = CredentialFiles::in_directory(&out);
    write_new(&[
        (&files.certificate, &certificate.pem(), Readers::Anybody),
        (&files.key, &key.serialize_pem(), Readers::OwnerAlone),
        (&files.authorities, &authority, Readers::Anybody),
    ])?;
    Output::new(args.format).both(
        || {
            serde_json::json!({
                "event": "issued", "identity": read.identity.to_string(), "serial": read.serial, "days": args.days,
                "certificate": files.certificate, "key": files.key, "authority": files.authorities,
            })
        },
        || {
            pairs(&[
                ("identity", read.identity.to_string()),
                ("serial", read.serial.clone()),
                ("directory", out.display().to_string()),
            ])
        },
    )?;
    Ok(())
}

fn show(file: &Path, format: Format) -> Result<(), Failure> {
    let pem = fs::read(file).map_err(|error| Failure::say(Exit::Failed, format!("{}: {error}", file.display())))?;
    let read = PeerCertificate::from_pem(&pem)?;
    let ends = jiff::Timestamp::try_from(read.not_after)?.to_string();
    Output::new(format).both(
        || serde_json::json!({ "identity": read.identity.to_string(), "serial": read.serial, "not_after": ends }),
        || {
            pairs(&[
                ("identity", read.identity.to_string()),
                ("serial", read.serial.clone()),
                ("not after", ends.clone()),
            ])
        },
    )?;
    Ok(())
}

/// What all certificates have in common.
fn params(days: u32, name: &str) -> Result<CertificateParams, Failure> {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let day = |date: jiff::civil::Date| {
        date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    let mut params = CertificateParams::default();
    // From yesterday on: clocks differ.
    params.not_before = day(today.yesterday()?);
    params.not_after = day(today.checked_add(jiff::Span::new().try_days(days)?)?);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

/// An address, or a name as certificates carry it.
fn host(name: &str) -> Result<SanType, Failure> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_plain) {
        let sentence = format!("--name {name:?}: expected the name of a host, or an address, without a port");
        return Err(Failure::say(Exit::Usage, sentence));
    }
    Ok(SanType::DnsName(name.to_owned().try_into()?))
}

/// A directory that others can't look into, if it is not there yet.
fn make_directory(path: &Path) -> Result<(), Failure> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|error| Failure::say(Exit::Failed, format!("{}: {error}", path.display())))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Readers {
    Anybody,
    OwnerAlone,
}

/// Writes files that must not be there yet: all are asked for before the first is written.
fn write_new(files: &[(&PathBuf, &String, Readers)]) -> Result<(), Failure> {
    if let Some((path, ..)) = files.iter().find(|(path, ..)| path.exists()) {
        let sentence = format!("{} is there already: nothing was written over (--out, or another DIR)", path.display());
        return Err(Failure::say(Exit::Failed, sentence));
    }
    for (path, text, readers) in files {
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        // From the beginning: between a chmod and the creation before it, others could read.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(
            &mut options,
            if *readers == Readers::OwnerAlone { 0o600 } else { 0o644 },
        );
        let mut file = options.open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
    }
    Ok(())
}
