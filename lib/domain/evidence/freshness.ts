/** Evidence holds a posture up until it is older than this; time that runs backwards makes it stale too. */
export function isEvidenceFresh(verifiedAt: Date, at: Date, maxAgeSeconds: number): boolean {
  const ageSeconds = (at.getTime() - verifiedAt.getTime()) / 1000;
  return ageSeconds >= 0 && ageSeconds <= maxAgeSeconds;
}
