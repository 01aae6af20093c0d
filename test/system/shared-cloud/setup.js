/** Jest's globalSetup. In JavaScript: what Jest itself compiles, it loads by `require`, for which packages export less. */
export default async () => (await import('./offer.ts')).offerCloud();
