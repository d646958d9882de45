-- Run once, when the container of PostgreSQL creates its data: the service gets a role that is no superuser.
\getenv password POSTGRES_PASSWORD
\connect template1
-- Only a superuser may create this extension; from the template, every later database has it.
CREATE EXTENSION vector;
\connect postgres
CREATE ROLE ipt_tenant NOLOGIN;
-- It may create databases, to restore a backup.
CREATE ROLE ipt LOGIN CREATEDB PASSWORD :'password' IN ROLE ipt_tenant;
CREATE DATABASE ipt OWNER ipt;
-- From here on the superuser can connect only inside the container.
ALTER ROLE CURRENT_USER PASSWORD NULL;
