/** Jest's globalTeardown, in the same process as its globalSetup. */
export default async () => (await import('./offer.ts')).endCloud();
