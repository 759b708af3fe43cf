local w = wallet(account)
if not make_hold(w, id, fee, app, '') then
	return redis.error_reply(NO_FIT)
end
return admitted()
