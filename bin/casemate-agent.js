#!/usr/bin/env node
import '../agent/main.ts';
