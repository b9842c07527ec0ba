-- Each upload of a version of a workflow. The row of a deleted one stays, without its pieces: what has run keeps its
-- description, and other bytes may never have the same version.
CREATE TABLE IF NOT EXISTS cloacina_packages (
    id uuid PRIMARY KEY,
    tenant uuid NOT NULL REFERENCES cloacina_tenants (id),
    name text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    -- Sorts as the precedence of SemVer does.
    precedence text COLLATE "C" NOT NULL,
    is_pre_release boolean NOT NULL,
    description text,
    manifest text NOT NULL,
    -- Their ids, in the order of the manifest.
    tasks text[] NOT NULL,
    -- Of the archive as it was uploaded, in hex, and its length in bytes.
    sha256 text NOT NULL,
    size bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    deleted_at timestamptz,
    has_pieces boolean NOT NULL DEFAULT true
);
CREATE UNIQUE INDEX IF NOT EXISTS cloacina_packages_not_deleted
    ON cloacina_packages (tenant, name, version) INCLUDE (size) WHERE deleted_at IS NULL;
CREATE INDEX IF NOT EXISTS cloacina_packages_by_version ON cloacina_packages (tenant, name, version);
CREATE INDEX IF NOT EXISTS cloacina_packages_by_precedence
    ON cloacina_packages (tenant, name, is_pre_release, precedence DESC) WHERE deleted_at IS NULL;
CREATE INDEX IF NOT EXISTS cloacina_packages_by_creation
    ON cloacina_packages (tenant, created_at DESC, id DESC) WHERE deleted_at IS NULL;
CREATE INDEX IF NOT EXISTS cloacina_packages_to_clear
    ON cloacina_packages (deleted_at) WHERE deleted_at IS NOT NULL AND has_pieces;

-- The archive, byte for byte, from number 0 on. It is compressed already.
CREATE TABLE IF NOT EXISTS cloacina_package_pieces (
    package uuid NOT NULL,
    number int NOT NULL,
    bytes bytea NOT NULL,
    PRIMARY KEY (package, number)
);
ALTER TABLE cloacina_package_pieces ALTER COLUMN bytes SET STORAGE EXTERNAL;

-- What concerns all versions of a workflow.
CREATE TABLE IF NOT EXISTS cloacina_workflows (
    tenant uuid NOT NULL REFERENCES cloacina_tenants (id),
    name text COLLATE "C" NOT NULL,
    -- No schedule of it fires, and no execution of it starts a further task.
    is_paused boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant, name)
);
